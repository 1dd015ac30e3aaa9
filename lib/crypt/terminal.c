/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asking for a passphrase on the controlling terminal. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "crypt/secret.h"
#include "qimg.h"

#define MAX_ATTEMPTS 3u
#define INTERRUPT    '\003' /* ^C */
#define END_OF_FILE  '\004' /* ^D */
#define ERASE_LINE   '\025' /* ^U */
#define BACKSPACE    '\b'
#define DELETE       '\177'

static void
print_on_terminal(int terminal, const char *text)
{
    ssize_t n = write(terminal, text, strlen(text));

    (void)n; /* a terminal that shows nothing can still be typed on */
}

/* Reads a line without its end; -1: the user gives up, or the terminal is gone. Signals
 * of the keyboard are off, so that none leaves the terminal without an echo. */
static gssize
read_line(int terminal, uint8_t *bytes, size_t size_bytes)
{
    size_t n_bytes = 0;

    for (;;) {
        char c;
        ssize_t n = read(terminal, &c, 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || c == INTERRUPT || (c == END_OF_FILE && n_bytes == 0))
            return -1;
        if (c == '\n' || c == '\r' || c == END_OF_FILE)
            return (gssize)n_bytes;
        if (c == BACKSPACE || c == DELETE)
            n_bytes -= n_bytes > 0;
        else if (c == ERASE_LINE)
            n_bytes = 0;
        else if (n_bytes < size_bytes)
            bytes[n_bytes++] = (uint8_t)c;
    }
}

/* Shows @question and reads a line that is not shown; -1: as read_line. */
static gssize
ask_line(int terminal, const char *question, uint8_t *bytes, size_t size_bytes)
{
    struct termios before, silent;
    gssize n_bytes;

    if (tcgetattr(terminal, &before) < 0)
        return -1;
    silent = before;
    silent.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG);
    silent.c_cc[VMIN] = 1;
    silent.c_cc[VTIME] = 0;
    if (tcsetattr(terminal, TCSAFLUSH, &silent) < 0)
        return -1;
    print_on_terminal(terminal, question); /* now: what was typed before is dropped */
    n_bytes = read_line(terminal, bytes, size_bytes);
    tcsetattr(terminal, TCSAFLUSH, &before);
    print_on_terminal(terminal, "\n");
    return n_bytes;
}

static int
open_terminal(void)
{
    return open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
}

gssize
qimg_ask_on_terminal(const char *path, unsigned n_asked, uint8_t *bytes,
                     size_t size_bytes, void *user)
{
    g_autofree char *shown = g_strescape(path, NULL);
    g_autofree char *question = g_strdup_printf(
        "%sPassphrase of %s: ", n_asked > 0 ? "It opens no key slot. " : "", shown);
    int terminal = n_asked < MAX_ATTEMPTS ? open_terminal() : -1;
    gssize n_bytes;

    if (terminal < 0)
        return -1;
    n_bytes = ask_line(terminal, question, bytes, size_bytes);
    close(terminal);
    if (user && n_bytes >= 0)
        (void)qimg_options_add_passphrase(user, bytes, (size_t)n_bytes, -1, NULL);
    return n_bytes;
}

gssize
qimg_ask_new_on_terminal(const char *path, unsigned n_asked, uint8_t *bytes,
                         size_t size_bytes, void *user)
{
    g_autofree char *shown = g_strescape(path, NULL);
    g_autofree char *question = g_strdup_printf("New passphrase of %s: ", shown);
    g_autofree char *repeat = g_strdup_printf("New passphrase of %s, again: ", shown);
    QimgSecret *again = qimg_secret_new(size_bytes);
    int terminal = n_asked == 0 ? open_terminal() : -1;
    gssize n_bytes = -1;

    (void)user;
    for (unsigned i = 0; i < MAX_ATTEMPTS && terminal >= 0; i++) {
        n_bytes = ask_line(terminal, question, bytes, size_bytes);
        if (n_bytes < 0 ||
            (ask_line(terminal, repeat, again->bytes, size_bytes) == n_bytes &&
             memcmp(bytes, again->bytes, (size_t)n_bytes) == 0))
            break;
        print_on_terminal(terminal, "They differ.\n");
        n_bytes = -1;
    }
    if (terminal >= 0)
        close(terminal);
    qimg_secret_free(again);
    return n_bytes;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libfuse starts fusermount3, which inherits our standard error: meanwhile, standard
 * error is an unnamed file. */
#include "mount/fuse-messages.h"

#include <errno.h>
#include <fuse_log.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_MESSAGES 4096

static int file_fd = -1, stderr_fd = -1;
static int begin_error; /* errno if they could not be made */

static void
print_message(enum fuse_log_level level, const char *format, va_list args)
{
    (void)level;
    if (begin_error == 0) /* else it would be a line of its own */
        vfprintf(stderr, format, args);
}

/* Used while the mount lasts: the handlers report errors to the callers concerned. */
static void
print_debugging(enum fuse_log_level level, const char *format, va_list args)
{
    if (level > FUSE_LOG_ERR)
        vfprintf(stderr, format, args);
}

void
fuse_messages_begin(void)
{
    fuse_set_log_func(print_message);
    fflush(stderr);
    stderr_fd = dup(STDERR_FILENO);
    file_fd = memfd_create("messages", MFD_CLOEXEC);
    begin_error = stderr_fd < 0 || file_fd < 0 ? errno : 0;
    if (begin_error == 0)
        dup2(file_fd, STDERR_FILENO);
}

/* Advice for @message. */
static const char *
cure_of(const char *message)
{
    static const struct {
        const char *part, *cure;
    } table[] = {
        {"user_allow_other",
         "put the line user_allow_other into /etc/fuse.conf, or leave "
         "out allow_other and allow_root"},
        {"mount_max", "unmount others, or raise mount_max in /etc/fuse.conf"},
        {"Too many open files", "raise the limit of open files, ulimit -n"},
        {"has no write access", "mount on a directory or file of your own"},
        {"not owned by", "mount on a directory or file of your own"},
        {"forbidden", "mount on another file system"},
        {"exec fusermount3", "install fusermount3, from the package fuse3; or mount as "
                             "root, or on /dev/fd/N"},
        {"open /dev/fuse", "let this user open it; qimg info, map, snapshot list and "
                           "copy-out work without it"},
        {"device not found",
         "load the module with modprobe fuse; qimg info, map, snapshot "
         "list and copy-out work without it"},
        {"unknown option", "leave the option out, see qcowfs --help"},
        {"not permitted",
         "a container needs CAP_SYS_ADMIN for that; or mount on /dev/fd/N, "
         "see the manual"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++)
        if (strstr(message, table[i].part))
            return table[i].cure;
    return "see fusermount3(1)";
}

/* The last line of @text, without the name of the program that printed it. */
static const char *
last_line(char *text)
{
    static const char *const prefixes[] = {
        "fusermount3: ", "fusermount: ", "fuse: ", "qcowfs: "};
    const char *line;

    g_strchomp(text);
    line = strrchr(text, '\n') ? strrchr(text, '\n') + 1 : text;
    for (size_t i = 0; i < G_N_ELEMENTS(prefixes); i++)
        if (g_str_has_prefix(line, prefixes[i]))
            line += strlen(prefixes[i]);
    return line;
}

char *
fuse_messages_end(bool is_good)
{
    char text[MAX_MESSAGES] = "";
    const char *line;

    fuse_set_log_func(print_debugging);
    fflush(stderr);
    if (file_fd >= 0 && pread(file_fd, text, sizeof text - 1, 0) < 0)
        text[0] = '\0';
    if (stderr_fd >= 0) {
        dup2(stderr_fd, STDERR_FILENO);
        close(stderr_fd);
    }
    if (file_fd >= 0)
        close(file_fd);
    file_fd = stderr_fd = -1;
    if (is_good) {
        fputs(text, stderr);
        return NULL;
    }
    line = last_line(text);
    if (!*line && begin_error)
        line = g_strerror(begin_error);
    else if (!*line)
        line = "fusermount3 refuses, and does not say why";
    return g_strdup_printf("%s (%s)", line, cure_of(line));
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Suppresses the log of damage (warnings) and repair (messages) in millions of damaged
 * images. */
#include <glib.h>

#include "fuzz.h"

static void
ignore_log(const char *domain, GLogLevelFlags level, const char *text, void *user)
{
    (void)domain, (void)level, (void)text, (void)user;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    g_log_set_handler("qimg", G_LOG_LEVEL_WARNING, ignore_log, NULL);
    g_log_set_handler("qimg-format", G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE,
                      ignore_log, NULL);
    return 0;
}

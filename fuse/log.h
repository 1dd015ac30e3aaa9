/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where messages of the running mount go: damage that is found, above all. */
#pragma once

/* Messages become lines on the terminal, "qcowfs: warning: …". */
void log_to_terminal(void);

/* From now on they go to the system's log. */
void log_to_syslog(void);

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Texts that an open control file gives: made whole, or (map.json) extent by extent while
 * they are read, so that the map of the largest image needs no memory. */
#pragma once

#include "tree.h"

typedef struct ControlText ControlText;

/* Opens the text of @node, which is no directory and shows no disk. NULL with @error. */
ControlText *control_text_open(const Tree *tree, Node node, GError **error);
void control_text_close(ControlText *text);

/* Reads up to @n_bytes at @position into @buffer; returns the number, 0 at the end, or
 * -errno. Threads: any; reads of one open file take turns. */
ssize_t control_text_read(ControlText *text, uint64_t position, char *buffer,
                          size_t n_bytes);

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Texts of control files, generated in pieces while they are read, so that none costs
 * more memory than one piece, for any image. A short text is generated whole at open: its
 * size is known, and every read of that open file sees the same text. */
#pragma once

#include "tree/tree.h"

typedef struct ControlText ControlText;

/* Opens the text of @node, which is neither a directory nor a disk. NULL with @error. */
ControlText *control_text_open(const Tree *tree, Node node, GError **error);
void control_text_close(ControlText *text);

/* Reads up to @n_bytes at @position into @buffer; returns the number, 0 at the end, or
 * -errno. Threads: any; reads of one open file take turns. */
ssize_t control_text_read(ControlText *text, uint64_t position, char *buffer,
                          size_t n_bytes);

/* The size of the present text of such a node, whose image (if any) is pinned as @entry,
 * at a bounded cost; 0 if the text is too long to measure. */
uint64_t control_text_measure(const Tree *tree, ImageEntry *entry, Node node);

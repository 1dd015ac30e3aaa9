/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Texts of control files. All are made in pieces while they are read, so that none costs
 * more memory than one piece, whatever the images have. A short one is made whole when it
 * is opened: its size is known, and every read of that open file sees one text. */
#pragma once

#include "tree/tree.h"

typedef struct ControlText ControlText;

/* Opens the text of @node, which is no directory and shows no disk. NULL with @error. */
ControlText *control_text_open(const Tree *tree, Node node, GError **error);
void control_text_close(ControlText *text);

/* Reads up to @n_bytes at @position into @buffer; returns the number, 0 at the end, or
 * -errno. Threads: any; reads of one open file take turns. */
ssize_t control_text_read(ControlText *text, uint64_t position, char *buffer,
                          size_t n_bytes);

/* The size of the text of such a node, whose image (if it has one) is pinned as @entry:
 * what reading it now would give, at a bounded cost; 0 where the text is longer than
 * that allows to find out. */
uint64_t control_text_measure(const Tree *tree, ImageEntry *entry, Node node);

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Output for people. */
#include "output.h"

#include <stdio.h>

int
output_failure(const char *file, const GError *error)
{
    fprintf(stderr, "qimg: %s%s%s\n", file ? file : "", file ? ": " : "", error->message);
    return EXIT_FAILED;
}

void
output_warnings(const QimgImage *image)
{
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++)
        fprintf(stderr, "qimg: warning: %s\n", *w);
}

char *
output_short_size(uint64_t bytes)
{
    g_autofree char *text = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    g_auto(GStrv) parts = g_strsplit(text, "\302\240", 2); /* a non-breaking space */

    return g_strjoinv(" ", parts);
}

char *
output_size(uint64_t bytes)
{
    g_autofree char *short_form = output_short_size(bytes);

    return g_strdup_printf("%s (%" G_GUINT64_FORMAT " bytes)", short_form,
                           (guint64)bytes);
}

char *
output_printable(const char *text)
{
    GString *out = g_string_new(NULL);

    for (const char *c = text; *c;) {
        gunichar u = g_utf8_get_char_validated(c, -1);

        if (u == (gunichar)-1 || u == (gunichar)-2 || g_unichar_iscntrl(u)) {
            g_string_append_printf(out, "\\x%02x", (unsigned char)*c);
            c++;
        } else {
            g_string_append_unichar(out, u);
            c = g_utf8_next_char(c);
        }
    }
    return g_string_free(out, FALSE);
}

static guint64
member_number(const json_t *o, const char *member)
{
    return (guint64)json_integer_value(json_object_get(o, member));
}

void
output_snapshots(const json_t *list, int indent)
{
    json_t *s;
    size_t i;

    printf("%*s%-8s%-24s%14s%14s  %s\n", indent, "", "ID", "NAME", "VM STATE", "DISK",
           "DATE (UTC)");
    json_array_foreach(list, i, s)
    {
        g_autofree char *id =
            output_printable(json_string_value(json_object_get(s, "id")));
        g_autofree char *name =
            output_printable(json_string_value(json_object_get(s, "name")));
        g_autofree char *state = output_short_size(member_number(s, "vm-state-size"));
        g_autofree char *disk = output_short_size(member_number(s, "disk-size"));
        g_autoptr(GDateTime) date =
            g_date_time_new_from_unix_utc((gint64)member_number(s, "date-sec"));
        g_autofree char *day = date ? g_date_time_format(date, "%F %T") : g_strdup("?");

        printf("%*s%-8s%-24s%14s%14s  %s\n", indent, "", id, name, state, disk, day);
    }
}

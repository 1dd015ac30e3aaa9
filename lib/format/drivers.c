/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of formats, and probing. */
#include "format/drivers.h"

#include <string.h>

/* Order of probing. */
static const QimgDriver *const drivers[] = {
    &qimg_driver_qcow2, &qimg_driver_qed, &qimg_driver_qcow1,
    &qimg_driver_luks,  &qimg_driver_raw,
};

const QimgDriver *
qimg_driver_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (strcmp(drivers[i]->name, name) == 0)
            return drivers[i];
    return NULL;
}

char *
qimg_driver_names(bool made_only)
{
    GString *names = g_string_new(NULL);
    size_t n = 0, n_added = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        n += !made_only || drivers[i]->create;
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (made_only && !drivers[i]->create)
            continue;
        if (n_added > 0)
            g_string_append(names, n_added + 1 < n ? ", " : " or ");
        g_string_append(names, drivers[i]->name);
        n_added++;
    }
    return g_string_free(names, FALSE);
}

const QimgDriver *
qimg_driver_probe(const uint8_t *bytes, size_t n_bytes)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++)
        if (drivers[i]->probe && drivers[i]->probe(bytes, n_bytes))
            return drivers[i];
    return NULL;
}

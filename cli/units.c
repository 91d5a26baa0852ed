/* SPDX-License-Identifier: MIT
 *
 * Numbers with units, as people write them.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/units.h"

static int unit_factor(const char *unit, double *factor)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {
        {"", 1}, {"B", 1},
        {"K", 1e3}, {"KB", 1e3}, {"M", 1e6}, {"MB", 1e6}, {"G", 1e9}, {"GB", 1e9}, {"T", 1e12}, {"TB", 1e12},
        {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0},
    };

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(units[i].name, unit) == 0) {
            *factor = units[i].factor;
            return 1;
        }
    }
    return 0;
}

static const char *number(const char *text, double *out)
{
    char *end;

    if (!isdigit((unsigned char)text[0]) && text[0] != '.') {
        return NULL; /* no sign, no "inf", no hexadecimal by accident */
    }
    *out = strtod(text, &end);
    while (*end == ' ') {
        end++;
    }
    return end == text || !isfinite(*out) ? NULL : end;
}

int cli_parse_bytes(const char *text, uint64_t *out)
{
    double value, factor;
    const char *unit = number(text, &value);

    if (unit == NULL || !unit_factor(unit, &factor) || value * factor >= 9e18) {
        return 0;
    }
    *out = (uint64_t)(value * factor);
    return 1;
}

int cli_parse_count(const char *text, int64_t *out)
{
    double value, factor = 1;
    const char *unit = number(text, &value);

    if (unit == NULL || strlen(unit) > 1) {
        return 0;
    }
    switch (toupper((unsigned char)unit[0])) {
    case '\0': break;
    case 'K': factor = 1e3; break;
    case 'M': factor = 1e6; break;
    case 'B': factor = 1e9; break;
    case 'T': factor = 1e12; break;
    default: return 0;
    }
    if (value * factor >= 9e18 || value * factor != floor(value * factor)) {
        return 0;
    }
    *out = (int64_t)(value * factor);
    return 1;
}

const char *cli_bytes_text(uint64_t bytes, char *buffer, size_t capacity)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    for (; value >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++) {
        value /= 1024;
    }
    snprintf(buffer, capacity, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buffer;
}

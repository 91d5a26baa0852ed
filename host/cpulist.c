/* SPDX-License-Identifier: MIT */
#include "host/cpulist.h"

#define LARGEST 1000000

static int read_number(const char **at, int32_t *number)
{
    const char *digit = *at;
    int32_t value = 0;
    if (*digit < '0' || *digit > '9')
        return 0;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        value = value * 10 + (*digit - '0');
        if (value > LARGEST)
            return 0;
    }
    *at = digit;
    *number = value;
    return 1;
}

int sherd__cpulist_range(const char **at, int32_t *first, int32_t *last)
{
    const char *here = *at;
    if (!read_number(&here, first))
        return 0;
    *last = *first;
    if (*here == '-') {
        here++;
        if (!read_number(&here, last) || *last < *first)
            return 0;
    }
    *at = here;
    return 1;
}

int sherd__cpulist_read(const char *text, uint8_t *set, int32_t size)
{
    int32_t first, last;
    while (*text != '\0' && *text != '\n' && *text != ' ') {
        if (!sherd__cpulist_range(&text, &first, &last))
            return 0;
        for (int32_t i = first; i <= last && i < size; i++)
            set[i] = 1;
        if (*text == ',' && text[1] >= '0' && text[1] <= '9')
            text++;
        else if (*text != '\0' && *text != '\n' && *text != ' ')
            return 0;
    }
    while (*text == ' ' || *text == '\n')
        text++;
    return *text == '\0';
}

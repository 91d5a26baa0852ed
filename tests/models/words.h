/* SPDX-License-Identifier: MIT
 *
 * Short words of the decoder's tests: a small shape, and a rig whose opening and steps must go well. Include after
 * cmocka.h.
 */
#ifndef SHERD_TESTS_MODELS_WORDS_H
#define SHERD_TESTS_MODELS_WORDS_H

#include <math.h>

#include "tests/models/rig.h"

static const rig_case SMALL = {.layers = 2,
                               .hidden = 48,
                               .heads = 6,
                               .kv_heads = 2,
                               .intermediate = 72,
                               .vocab = 90,
                               .batch = 2,
                               .seq = 19,
                               .threads = 1};

static inline void opened(rig *r, const rig_case *c)
{
    sherd_error err = {0};
    if (rig_open(r, c, &err) != SHERD_OK) {
        fail_msg("%s", err.text);
    }
}

static inline double step(rig *r)
{
    sherd_error err = {0};
    double loss = NAN;
    if (rig_step(r, &loss, &err) != SHERD_OK) {
        fail_msg("%s", err.text);
    }
    return loss;
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The loops of patterns.c for one width of vectors: included once per width, which defines LOOP(name), VEC, VEC_BYTES,
 * TARGET, LOAD, WIDEN, STORE, STREAM, ADD, AND, MERGE and SET. Everything that differs between the patterns is a
 * constant where it is called, so each becomes a loop without a branch.
 */

TARGET static inline __attribute__((always_inline)) VEC LOOP(sum_at)(const char *sum, int sum_bytes, int64_t i)
{
    return sum_bytes == 2 ? WIDEN(sum + 2 * i) : LOAD(sum + 4 * i);
}

TARGET static inline __attribute__((always_inline)) void LOOP(put)(char *to, VEC value, int past)
{
    if (past) {
        STREAM(to, value);
    } else {
        STORE(to, value);
    }
}

static inline __attribute__((always_inline)) void LOOP(ask)(const char *from, int bytes)
{
    for (int i = 0; i < bytes; i += 64) {
        __builtin_prefetch(from + i, 0, 3);
    }
}

/* 32 elements of all arrays at a time. `ahead`: elements asked for in advance, 0: none. */
TARGET static inline __attribute__((always_inline)) void LOOP(together)(const pattern_streams *s, int64_t begin,
                                                                        int64_t end, int arrays, int sum_bytes,
                                                                        int past, int emit_past, int ahead)
{
    enum { N = 128 / VEC_BYTES, STEP = VEC_BYTES / 4 };
    const char *sum = s->sum, *in[PATTERN_ARRAYS] = {s->in[0], s->in[1], s->in[2]};
    char *out[PATTERN_ARRAYS] = {s->out[0], s->out[1], s->out[2]}, *emit = s->emit;
    VEC mask = SET(nothing);
    for (int64_t i = begin; i < end; i += 32) {
        VEC by[N], master[N];
        if (ahead) {
            LOOP(ask)(sum + (i + ahead) * sum_bytes, 32 * sum_bytes);
            for (int a = 0; a < arrays; ++a) {
                LOOP(ask)(in[a] + (i + ahead) * 4, 128);
            }
        }
        for (int k = 0; k < N; ++k) {
            by[k] = AND(LOOP(sum_at)(sum, sum_bytes, i + k * STEP), mask);
        }
        for (int a = arrays - 1; a >= 0; --a) {
            for (int k = 0; k < N; ++k) {
                master[k] = ADD(LOAD(in[a] + 4 * i + k * VEC_BYTES), by[k]);
                LOOP(put)(out[a] + 4 * i + k * VEC_BYTES, master[k], past);
            }
        }
        for (int k = 0; k < N; k += 2) {
            LOOP(put)(emit + 2 * i + k / 2 * VEC_BYTES, MERGE(master[k], master[k + 1]), emit_past);
        }
    }
}

/* PATTERN_UNIT elements of one array, then of the next. */
TARGET static inline __attribute__((always_inline)) void LOOP(in_turn)(const pattern_streams *s, int64_t begin,
                                                                       int64_t end, int arrays, int sum_bytes,
                                                                       int past, int emit_past)
{
    enum { STEP = VEC_BYTES / 4 };
    VEC mask = SET(nothing);
    for (int64_t at = begin; at < end; at += PATTERN_UNIT) {
        int64_t to = at + PATTERN_UNIT < end ? at + PATTERN_UNIT : end;
        VEC by = mask;
        for (int64_t i = at; i < to; i += STEP) {
            by = AND(ADD(LOOP(sum_at)(s->sum, sum_bytes, i), by), mask);
        }
        for (int a = arrays - 1; a >= 0; --a) {
            for (int64_t i = at; i < to; i += 2 * STEP) {
                VEC low = ADD(LOAD(s->in[a] + 4 * i), by), high = ADD(LOAD(s->in[a] + 4 * i + VEC_BYTES), by);
                LOOP(put)(s->out[a] + 4 * i, low, past);
                LOOP(put)(s->out[a] + 4 * i + VEC_BYTES, high, past);
                if (a == 0) {
                    LOOP(put)(s->emit + 2 * i, MERGE(low, high), emit_past);
                }
            }
        }
    }
}

#define SHAPED(call, ...)                                                                                              \
    do {                                                                                                               \
        if (s->arrays == 3 && s->sum_bytes == 4) {                                                                     \
            call(s, begin, end, 3, 4, __VA_ARGS__);                                                                    \
        } else if (s->arrays == 3) {                                                                                   \
            call(s, begin, end, 3, 2, __VA_ARGS__);                                                                    \
        } else if (s->sum_bytes == 4) {                                                                                \
            call(s, begin, end, 2, 4, __VA_ARGS__);                                                                    \
        } else {                                                                                                       \
            call(s, begin, end, 2, 2, __VA_ARGS__);                                                                    \
        }                                                                                                              \
    } while (0)

#define X(suffix, past, emit_past, ahead)                                                                              \
    TARGET static void LOOP(together_##suffix)(const pattern_streams *s, int64_t begin, int64_t end)                   \
    {                                                                                                                  \
        SHAPED(LOOP(together), past, emit_past, ahead);                                                                \
        _mm_sfence();                                                                                                  \
    }
PATTERN_MAP(X)
#undef X

#define X(suffix, past, emit_past)                                                                                     \
    TARGET static void LOOP(in_turn_##suffix)(const pattern_streams *s, int64_t begin, int64_t end)                    \
    {                                                                                                                  \
        SHAPED(LOOP(in_turn), past, emit_past);                                                                        \
        _mm_sfence();                                                                                                  \
    }
IN_TURN_MAP(X)
#undef X
#undef SHAPED

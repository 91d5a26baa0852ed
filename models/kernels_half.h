/* SPDX-License-Identifier: MIT
 *
 * The runs that convert, included by kernels_body.h once per 16-bit type: HALF names them, TO_HALF and OF_HALF convert
 * a vector.
 */
static inline void HALF(widen)(int64_t n, const uint16_t *x, float *y)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vh h;
        memcpy(&h, x + i, sizeof h);
        store(y + i, OF_HALF(h));
    }
    if (i < n) {
        vh h = {0};
        memcpy(&h, x + i, (size_t)(n - i) * sizeof *x);
        store_part(y + i, OF_HALF(h), n - i);
    }
}

static void HALF(widen_rows)(int64_t rows, int64_t n, const uint16_t *x, int64_t ldx, float *y, int64_t ldy)
{
    for (int64_t r = 0; r < rows; r++) {
        __builtin_prefetch(x + (r + AHEAD < rows ? r + AHEAD : r) * ldx);
        HALF(widen)(n, x + r * ldx, y + r * ldy);
    }
}

static void HALF(narrow)(int64_t n, const float *x, uint16_t *y)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vh h = TO_HALF(load(x + i));
        memcpy(y + i, &h, sizeof h);
    }
    if (i < n) {
        vh h = TO_HALF(load_part(x + i, n - i));
        memcpy(y + i, &h, (size_t)(n - i) * sizeof *y);
    }
}

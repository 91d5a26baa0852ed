/* SPDX-License-Identifier: MIT
 *
 * The inner loops, written once over vectors of SHERD_KERNELS_WIDTH floats (gcc's and clang's vector types), and
 * compiled once per instruction set by kernels_base.c, kernels_avx2.c and kernels_avx512.c, which name the table. A
 * vector wider than the machine's registers is split by the compiler, so every variant is correct everywhere its
 * instructions exist; the width only decides the speed, and the number of lanes a sum is split into. Sums run lane by
 * lane in rising order and are folded at the end, so a result depends on the variant but never on threads or time.
 */
#include "models/kernels.h"

#include <math.h>
#include <string.h>

#define W SHERD_KERNELS_WIDTH

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

static inline vf load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

/* The first n < W floats, zeros behind them. */
static inline vf load_part(const float *p, int64_t n)
{
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

static inline void store_part(float *p, vf v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}

static inline vf splat(float x)
{
    return x - (vf){0};
}

static inline vf choose(vi mask, vf yes, vf no)
{
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

static inline float fold_sum(vf v)
{
    for (int half = W / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            v[i] += v[i + half];
        }
    }
    return v[0];
}

/* exp by 2^n · p(r), |r| <= ln2/2; error below 2 units in the last place. Below -87.3 the result is 0 (a subnormal
 * would be no different to a softmax), above 88.7 it is infinite; a NaN stays one. */
static inline vf vexp(vf x)
{
    const vf magic = splat(12582912.0f); /* 1.5 · 2^23: adding it rounds to an integer */
    vf low = splat(-87.33f), high = splat(88.72f);
    vi under = x<low, over = x> high;
    vf c = choose(under, low, choose(over, high, x));
    vf n = (c * 1.44269504088896341f + magic) - magic;
    vf r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    /* n reaches 128, which no float exponent holds: scale by two halves. A NaN's integer does not matter. */
    vi k = __builtin_convertvector(choose(n == n, n, splat(0.0f)), vi);
    vi k1 = k / 2, k2 = k - k1;
    p = p * (vf)((k1 + 127) << 23) * (vf)((k2 + 127) << 23);
    p = choose(under, splat(0.0f), p);
    return choose(over, splat(INFINITY), p);
}

static inline vh bf16_of(vf v)
{
    vu bits = (vu)v;
    vu rounded = (bits + 0x8000u) >> 16;
    vu nan = (vu)((bits & 0x7FFFFFFFu) > 0x7F800000u);
    return __builtin_convertvector((rounded & ~nan) | (nan & 0x7FC0u), vh);
}

static inline vf of_bf16(vh h)
{
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

static inline vu pick(vi mask, vu yes, vu no)
{
    return ((vu)mask & yes) | (~(vu)mask & no);
}

/* Nearest, ties to even. Normal results: half of the last bit less one, and one more where that bit is odd, carry into
 * what is kept. Subnormal ones: adding 1/2 leaves their unit, 2^-24, as the last bit of fp32, and rounds there. */
static inline vh fp16_of(vf v)
{
    vu bits = (vu)v, magnitude = bits & 0x7FFFFFFFu;
    vu normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    vu subnormal = (vu)((vf)magnitude + 0.5f) - 0x3F000000u;
    vu finite = pick((vi)(magnitude < 0x38800000u), subnormal, normal);
    vu half = ((bits >> 16) & 0x8000u) | pick((vi)(magnitude >= 0x47800000u), 0x7C00u + (vu){0}, finite);
    return __builtin_convertvector(pick((vi)(magnitude > 0x7F800000u), 0x7E00u + (vu){0}, half), vh);
}

static inline vf of_fp16(vh h)
{
    vu x = __builtin_convertvector(h, vu), magnitude = (x & 0x7FFFu) << 13;
    vu finite = (vu)((vf)magnitude * 0x1p112f);
    return (vf)(((x & 0x8000u) << 16) | pick((vi)((x & 0x7C00u) == 0x7C00u), magnitude | 0x7F800000u, finite));
}

#define AHEAD 12 /* rows */

static void copy_rows(int64_t rows, int64_t n, const float *x, int64_t ldx, float *y, int64_t ldy)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * ldx, *ahead = x + (r + AHEAD < rows ? r + AHEAD : r) * ldx;
        float *to = y + r * ldy;
        int64_t i = 0;
        for (; i + W <= n; i += W) {
            __builtin_prefetch(ahead + i);
            store(to + i, load(from + i));
        }
        for (; i < n; i++) {
            to[i] = from[i];
        }
    }
}

/* widen, widen_rows and narrow of either type. */
#define HALF(name) bf16_##name
#define TO_HALF(v) bf16_of(v)
#define OF_HALF(h) of_bf16(h)
#include "models/kernels_half.h"
#undef HALF
#undef TO_HALF
#undef OF_HALF
#define HALF(name) fp16_##name
#define TO_HALF(v) fp16_of(v)
#define OF_HALF(h) of_fp16(h)
#include "models/kernels_half.h"

static void add(int64_t n, const float *x, float *y)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        store(y + i, load(y + i) + load(x + i));
    }
    for (; i < n; i++) {
        y[i] += x[i];
    }
}

static void scale(int64_t n, float a, float *x)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        store(x + i, load(x + i) * a);
    }
    for (; i < n; i++) {
        x[i] *= a;
    }
}

static float dot(int64_t n, const float *x, const float *y)
{
    vf s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        s0 += load(x + i) * load(y + i);
        s1 += load(x + i + W) * load(y + i + W);
    }
    for (; i + W <= n; i += W) {
        s0 += load(x + i) * load(y + i);
    }
    if (i < n) {
        s1 += load_part(x + i, n - i) * load_part(y + i, n - i);
    }
    return fold_sum(s0 + s1);
}

static float maximum(int64_t n, const float *x)
{
    float best = x[0];
    int64_t i = 0;
    if (n >= W) {
        vf m = load(x);
        for (i = W; i + W <= n; i += W) {
            vf v = load(x + i);
            m = choose(v > m, v, m);
        }
        for (int l = 0; l < W; l++) {
            best = m[l] > best ? m[l] : best;
        }
    }
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

static float exp_sum(int64_t n, float a, float b, float *x)
{
    vf sum = {0};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf e = vexp(load(x + i) * a - b);
        store(x + i, e);
        sum += e;
    }
    if (i < n) {
        vf e = vexp(load_part(x + i, n - i) * a - b);
        store_part(x + i, e, n - i);
        sum += load_part(x + i, n - i);
    }
    return fold_sum(sum);
}

static void rms_apply(int64_t n, float r, const float *x, const float *w, float *y)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        store(y + i, load(x + i) * r * load(w + i));
    }
    for (; i < n; i++) {
        y[i] = x[i] * r * w[i];
    }
}

static float dot3(int64_t n, const float *x, const float *y, const float *z)
{
    vf s = {0};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        s += load(x + i) * load(y + i) * load(z + i);
    }
    if (i < n) {
        s += load_part(x + i, n - i) * load_part(y + i, n - i) * load_part(z + i, n - i);
    }
    return fold_sum(s);
}

static void rms_backward(int64_t n, float r, const float *x, const float *w, const float *dy, float *dx, float *dw)
{
    float s = r * r * dot3(n, x, w, dy) / (float)n;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf xv = load(x + i), dv = load(dy + i);
        store(dx + i, load(dx + i) + (load(w + i) * dv - xv * s) * r);
        store(dw + i, load(dw + i) + dv * xv * r);
    }
    for (; i < n; i++) {
        dx[i] += (w[i] * dy[i] - x[i] * s) * r;
        dw[i] += dy[i] * x[i] * r;
    }
}

static void rope(int64_t half, const float *cosine, const float *sine, float sign, float *x)
{
    int64_t i = 0;
    for (; i + W <= half; i += W) {
        vf c = load(cosine + i), s = load(sine + i) * sign, lo = load(x + i), hi = load(x + half + i);
        store(x + i, lo * c - hi * s);
        store(x + half + i, hi * c + lo * s);
    }
    for (; i < half; i++) {
        float s = sine[i] * sign, lo = x[i], hi = x[half + i];
        x[i] = lo * cosine[i] - hi * s;
        x[half + i] = hi * cosine[i] + lo * s;
    }
}

static inline vf sigmoid(vf g)
{
    return 1.0f / (1.0f + vexp(-g));
}

static void swiglu(int64_t n, const float *g, const float *u, float *y)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf gv = load(g + i);
        store(y + i, gv * sigmoid(gv) * load(u + i));
    }
    if (i < n) {
        vf gv = load_part(g + i, n - i);
        store_part(y + i, gv * sigmoid(gv) * load_part(u + i, n - i), n - i);
    }
}

static inline void swiglu_lanes(vf g, vf u, vf dy, vf *dg, vf *du, vf *y)
{
    vf s = sigmoid(g), silu = g * s;
    *y = silu * u;
    *du = dy * silu;
    *dg = dy * u * (s + silu * (1.0f - s));
}

static void swiglu_backward(int64_t n, const float *g, const float *u, const float *dy, float *dg, float *du, float *y)
{
    vf a, b, c;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        swiglu_lanes(load(g + i), load(u + i), load(dy + i), &a, &b, &c);
        store(dg + i, a);
        store(du + i, b);
        store(y + i, c);
    }
    if (i < n) {
        int64_t m = n - i;
        swiglu_lanes(load_part(g + i, m), load_part(u + i, m), load_part(dy + i, m), &a, &b, &c);
        store_part(dg + i, a, m);
        store_part(du + i, b, m);
        store_part(y + i, c, m);
    }
}

static void score_backward(int64_t n, float delta, float factor, const float *p, float *dp)
{
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        store(dp + i, load(p + i) * (load(dp + i) - delta) * factor);
    }
    for (; i < n; i++) {
        dp[i] = p[i] * (dp[i] - delta) * factor;
    }
}

/* Perfect shuffles of two vectors: lane by lane, the lower halves and the upper halves. */
#if SHERD_KERNELS_WIDTH == 16
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif SHERD_KERNELS_WIDTH == 8
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* One W × W block: log2 W rounds of shuffling row i with row i + W/2 into rows 2i and 2i + 1 transpose it. */
static inline void transpose_block(const float *x, int64_t ldx, float *y, int64_t ldy)
{
    vf a[W], b[W];
    for (int i = 0; i < W; i++) {
        a[i] = load(x + i * ldx);
    }
    for (int round = 1; round < W; round *= 4) {
        for (int i = 0; i < W / 2; i++) {
            b[2 * i] = ZIP_LOW(a[i], a[i + W / 2]);
            b[2 * i + 1] = ZIP_HIGH(a[i], a[i + W / 2]);
        }
        if (2 * round == W) {
            memcpy(a, b, sizeof a);
            break;
        }
        for (int i = 0; i < W / 2; i++) {
            a[2 * i] = ZIP_LOW(b[i], b[i + W / 2]);
            a[2 * i + 1] = ZIP_HIGH(b[i], b[i + W / 2]);
        }
    }
    for (int i = 0; i < W; i++) {
        store(y + i * ldy, a[i]);
    }
}

static void transpose(int64_t rows, int64_t cols, const float *x, int64_t ldx, float *y, int64_t ldy)
{
    int64_t r = 0;
    for (; r + W <= rows; r += W) {
        int64_t c = 0;
        for (; c + W <= cols; c += W) {
            transpose_block(x + r * ldx + c, ldx, y + c * ldy + r, ldy);
        }
        for (; c < cols; c++) {
            for (int64_t i = r; i < r + W; i++) {
                y[c * ldy + i] = x[i * ldx + c];
            }
        }
    }
    for (; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            y[c * ldy + r] = x[r * ldx + c];
        }
    }
}

/* Register tile: ROWS × COLS vectors of accumulators. 6 × 4 fills 24 of AVX-512's 32 registers; 6 × 2 fits AVX2's 16.
 */
#if SHERD_KERNELS_WIDTH == 16
#define ROWS 6
#define COLS 4
#else
#define ROWS (SHERD_KERNELS_WIDTH == 8 ? 6 : 4)
#define COLS 2
#endif
_Static_assert(SHERD_KERNEL_PAD % (COLS * W) == 0, "padding covers the tile");

/* What is in C is added last, to the finished sum of this block of k: two short chains round less than a long one. */
__attribute__((always_inline)) static inline void tile(const int rows, const sherd_tile_gemm *g, int64_t i, int64_t j)
{
    vf acc[6][COLS];
    const float *a = g->a + i * g->a_row, *b = g->b + j;
    const int64_t a_row = g->a_row, a_col = g->a_col, ldb = g->ldb;
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < COLS; c++) {
            acc[r][c] = splat(0.0f);
        }
    }
    for (int64_t l = 0; l < g->k; l++) {
        vf bv[COLS];
        for (int c = 0; c < COLS; c++) {
            bv[c] = load(b + l * ldb + c * W);
        }
        for (int r = 0; r < rows; r++) {
            vf av = splat(a[r * a_row + l * a_col]);
            for (int c = 0; c < COLS; c++) {
                acc[r][c] += av * bv[c];
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < COLS; c++) {
            float *to = g->c + (i + r) * g->ldc + j + c * W;
            store(to, g->beta ? load(to) + acc[r][c] : acc[r][c]);
        }
    }
}

static void gemm(const sherd_tile_gemm *g)
{
    for (int64_t j = 0; j < g->n; j += COLS * W) {
        int64_t i = 0;
        for (; i + ROWS <= g->m; i += ROWS) {
            tile(ROWS, g, i, j);
        }
        for (; i + 2 <= g->m; i += 2) {
            tile(2, g, i, j);
        }
        for (; i < g->m; i++) {
            tile(1, g, i, j);
        }
    }
}

/* clang-format off */
#define COMMON \
    .name = SHERD_KERNELS_NAME, \
    .copy_rows = copy_rows, \
    .add = add, \
    .scale = scale, \
    .dot = dot, \
    .maximum = maximum, \
    .exp_sum = exp_sum, \
    .rms_apply = rms_apply, \
    .rms_backward = rms_backward, \
    .rope = rope, \
    .swiglu = swiglu, \
    .swiglu_backward = swiglu_backward, \
    .score_backward = score_backward, \
    .transpose = transpose, \
    .gemm = gemm
/* clang-format on */

const sherd_kernels SHERD_KERNELS_TABLE[SHERD_KERNELS_HALVES] = {
    [SHERD_KERNELS_BF16] = {COMMON, .widen = bf16_widen, .narrow = bf16_narrow, .widen_rows = bf16_widen_rows},
    [SHERD_KERNELS_FP16] = {COMMON, .widen = fp16_widen, .narrow = fp16_narrow, .widen_rows = fp16_widen_rows},
};

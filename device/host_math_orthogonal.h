/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising on the host; a part of host_math_simd.h.
 *
 * Matrices lie in panels: 32 columns side by side, a row of 32 after the other. So a product's innermost loop walks
 * over both of its operands, whatever their sizes, without packing them: at every k it takes some values of a row of
 * one panel and a whole row of another. All three products have the form sum over k of P[k][i] Q[k][j]:
 *
 *     A = X X'          P = Q = X', as panels of X's rows (`tall`: n rows of k)
 *     S = A A           P = Q = A, which is its own transpose
 *     X' = a X' + X' B  P = X as panels of its columns (`wide`), Q = B
 *
 * The last one goes over the former X' in place; `wide` is then made again by transposing, which costs one pass. Each
 * element is one chain of fma in rising k: kept in registers for a block of k, and stored as fp32, which is what it is,
 * between blocks. A and S are computed where the column's panel is not before the row's, and mirrored.
 *
 * Panels are filled up with zeros. What stands there enters no chain, since k ends where the matrix does.
 */
#ifndef SHERD_DEVICE_HOST_MATH_ORTHOGONAL_H
#define SHERD_DEVICE_HOST_MATH_ORTHOGONAL_H

#define PANEL SHERD__MUON_PANEL
#define DEPTH 128 /* of a block of k: a panel's part of it, 16 KiB, stays in the first cache */
#define TILE 4    /* panels of a task's side, at most */
#define TASKS 4   /* for each member of the team, at least, as long as they can be made smaller */

/* A vector of fp32 and how many rows of it a block of registers has: enough independent chains for two units at four
 * cycles. */
#if defined(__AVX512F__)
typedef __m512 lanes;
#define LANES 16
#define BLOCK_ROWS 8
#define BLOCK_COLS 32
#define lanes_load(from) _mm512_loadu_ps(from)
#define lanes_store(to, value) _mm512_storeu_ps((to), (value))
#define lanes_all(value) _mm512_set1_ps(value)
#define lanes_times(a, b) _mm512_mul_ps((a), (b))
#define lanes_fma(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#elif defined(__AVX2__)
typedef __m256 lanes;
#define LANES 8
#define BLOCK_ROWS 4
#define BLOCK_COLS 16
#define lanes_load(from) _mm256_loadu_ps(from)
#define lanes_store(to, value) _mm256_storeu_ps((to), (value))
#define lanes_all(value) _mm256_set1_ps(value)
#define lanes_times(a, b) _mm256_mul_ps((a), (b))
#define lanes_fma(a, b, c) _mm256_fmadd_ps((a), (b), (c))
#else
typedef float lanes;
#define LANES 1
#define BLOCK_ROWS 4
#define BLOCK_COLS 8
#define lanes_load(from) (*(from))
#define lanes_store(to, value) (*(to) = (value))
#define lanes_all(value) (value)
#define lanes_times(a, b) ((a) * (b))
#define lanes_fma(a, b, c) SHERD__FMAF((a), (b), (c))
#endif
#define BLOCK_LANES (BLOCK_COLS / LANES)

/* Where a chain begins: at +0, at what stands there, or at a times that. */
typedef enum chain { CHAIN_ZERO, CHAIN_GOES_ON, CHAIN_SCALED } chain;

/* c[r][0 .. 32) for r < BLOCK_ROWS goes on by k links. All three are 32 apart from row to row. */
static inline void product_block(float *c, const float *p, const float *q, int64_t k, chain from)
{
    for (int col = 0; col < PANEL; col += BLOCK_COLS) {
        lanes sum[BLOCK_ROWS][BLOCK_LANES];
        for (int r = 0; r < BLOCK_ROWS; ++r) {
            for (int v = 0; v < BLOCK_LANES; ++v) {
                lanes former = lanes_load(c + r * PANEL + col + v * LANES);
                lanes scaled = lanes_times(lanes_all(SHERD__MUON_A), former);
                sum[r][v] = from == CHAIN_ZERO ? lanes_all(0.0f) : from == CHAIN_SCALED ? scaled : former;
            }
        }
        for (int64_t i = 0; i < k; ++i) {
            lanes row[BLOCK_LANES];
            for (int v = 0; v < BLOCK_LANES; ++v) {
                row[v] = lanes_load(q + i * PANEL + col + v * LANES);
            }
            for (int r = 0; r < BLOCK_ROWS; ++r) {
                lanes one = lanes_all(p[i * PANEL + r]);
                for (int v = 0; v < BLOCK_LANES; ++v) {
                    sum[r][v] = lanes_fma(one, row[v], sum[r][v]);
                }
            }
        }
        for (int r = 0; r < BLOCK_ROWS; ++r) {
            for (int v = 0; v < BLOCK_LANES; ++v) {
                lanes_store(c + r * PANEL + col + v * LANES, sum[r][v]);
            }
        }
    }
}

/* A matrix in panels. */
typedef struct panels {
    float *at;
    int64_t rows; /* of each panel: a multiple of 32 */
    int64_t n;    /* panels */
} panels;

typedef struct newton_job {
    const sherd__orthogonal *job;
    sherd__norm *norm; /* at the head of the scratch memory */
    panels wide, tall; /* X, m × n, and its transpose */
    panels gram, mix;  /* A; S, then B */
    panels own, other; /* wide and tall: the one that lies as the matrix does, and the other */
    int64_t m, n;
    float divisor, scale;
    /* The product under way: out = sum over k < depth of p[k] q[k]. */
    const panels *p, *q, *out;
    int64_t depth, side, tiles_down, tiles_across; /* side: panels of a task's */
    chain from;
    int symmetric;
} newton_job;

static inline float *panel_row(const panels *of, int64_t panel, int64_t row)
{
    return of->at + (panel * of->rows + row) * PANEL;
}

static panels panels_take(float **from, int64_t rows, int64_t cols)
{
    panels out = {*from, sherd__muon_padded(rows), sherd__muon_padded(cols) / PANEL};
    *from += out.rows * out.n * PANEL;
    return out;
}

/* 32 × 32, from one contiguous block to another. */
static void turn_block(float *restrict to, const float *restrict from)
{
    for (int i = 0; i < PANEL; ++i) {
        for (int j = 0; j < PANEL; ++j) {
            to[i * PANEL + j] = from[j * PANEL + i];
        }
    }
}

/* ----------------------------------------------------------------------------------------------------------- products
 */

typedef struct tile_of {
    int64_t down, down_end, across, across_end; /* panels: rows of the result, columns */
} tile_of;

static void product_tile(const newton_job *w, const tile_of *tile)
{
    for (int64_t k = 0; k == 0 || k < w->depth; k += DEPTH) {
        int64_t links = least(DEPTH, w->depth - k);
        chain from = k == 0 ? w->from : CHAIN_GOES_ON;
        for (int64_t j = tile->across; j < tile->across_end; ++j) {
            const float *q = panel_row(w->q, j, k);
            for (int64_t i = tile->down; i < tile->down_end && !(w->symmetric && i > j); ++i) {
                for (int64_t r = 0; r < PANEL; r += BLOCK_ROWS) {
                    product_block(panel_row(w->out, j, i * PANEL + r), panel_row(w->p, i, k) + r, q, links, from);
                }
            }
        }
    }
}

static tile_of tile_at(const newton_job *w, int64_t down, int64_t across)
{
    return (tile_of){down * w->side, least((down + 1) * w->side, w->out->rows / PANEL), across * w->side,
                     least((across + 1) * w->side, w->out->n)};
}

/* The chunk's tile among those of which the column is not before the row. */
static tile_of upper_tile(const newton_job *w, int64_t chunk)
{
    int64_t down = 0;
    for (; chunk >= w->tiles_across - down; ++down) {
        chunk -= w->tiles_across - down;
    }
    return tile_at(w, down, down + chunk);
}

static void mirror_tile(const newton_job *w, const tile_of *tile)
{
    for (int64_t j = tile->across; j < tile->across_end; ++j) {
        for (int64_t i = tile->down; i < tile->down_end && i < j; ++i) {
            turn_block(panel_row(w->out, i, j * PANEL), panel_row(w->out, j, i * PANEL));
        }
    }
}

static void gram_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    tile_of tile = upper_tile(w, chunk);
    (void)worker;
    product_tile(w, &tile);
    mirror_tile(w, &tile);
}

static void mix_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    tile_of tile = upper_tile(w, chunk);
    (void)worker;
    product_tile(w, &tile);
    for (int64_t j = tile.across; j < tile.across_end; ++j) {
        for (int64_t i = tile.down; i < tile.down_end && i <= j; ++i) {
            float *mix = panel_row(&w->mix, j, i * PANEL);
            const float *gram = panel_row(&w->gram, j, i * PANEL);
            for (int64_t e = 0; e < PANEL * PANEL; ++e) {
                mix[e] = sherd__muon_square(mix[e], gram[e]);
            }
        }
    }
    mirror_tile(w, &tile);
}

static void step_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    tile_of tile = tile_at(w, chunk / w->tiles_across, chunk % w->tiles_across);
    (void)worker;
    product_tile(w, &tile);
}

/* Tasks of that side; returns how many they are. */
static int64_t cut_tasks(newton_job *w, int64_t side)
{
    w->side = side;
    w->tiles_down = chunks_of(w->out->rows / PANEL, side);
    w->tiles_across = chunks_of(w->out->n, side);
    return w->symmetric ? w->tiles_across * (w->tiles_across + 1) / 2 : w->tiles_down * w->tiles_across;
}

static void product_run(sherd__team *team, newton_job *w, const panels *out, const panels *p, const panels *q,
                        int64_t depth, sherd__team_fn chunk)
{
    w->out = out;
    w->p = p;
    w->q = q;
    w->depth = depth;
    w->symmetric = chunk != step_chunk;
    w->from = w->symmetric ? CHAIN_ZERO : CHAIN_SCALED;
    /* Large tasks share what they fetch; but every member must have some. */
    int64_t side = TILE, tasks = cut_tasks(w, side), enough = TASKS * (int64_t)sherd__team_threads(team);
    for (; side > 1 && tasks < enough; side /= 2) {
        tasks = cut_tasks(w, side / 2);
    }
    sherd__team_run(team, tasks, chunk, w);
}

/* -------------------------------------------------------------------------------------------------- before and after
 */

static void norm_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    int64_t elems = w->job->rows * w->job->cols, at = chunk * CHUNK;
    sherd__norm norm;
    (void)worker;
    sherd__norm_clear(&norm);
    norm_strip(&norm, w->job->matrix + at, least(CHUNK, elems - at), (uint64_t)(at / SHERD__NORM_BLOCK));
    merge_norm(w->norm, &norm);
}

/* A panel's height of the matrix's rows: into panels both ways. */
static void begin_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    int64_t rows = least(PANEL, w->job->rows - chunk * PANEL);
    (void)worker;
    for (int64_t panel = 0; panel < w->own.n; ++panel) {
        float *block = panel_row(&w->own, panel, chunk * PANEL);
        int64_t cols = least(PANEL, w->job->cols - panel * PANEL);
        memset(block, 0, PANEL * PANEL * sizeof *block);
        for (int64_t r = 0; r < rows; ++r) {
            const float *from = w->job->matrix + (chunk * PANEL + r) * w->job->cols + panel * PANEL;
            for (int64_t c = 0; c < cols; ++c) {
                block[r * PANEL + c] = from[c] / w->divisor;
            }
        }
        turn_block(panel_row(&w->other, chunk, panel * PANEL), block);
    }
}

/* A panel of the transpose becomes a panel's height of X. */
static void turn_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    (void)worker;
    for (int64_t panel = 0; panel < w->wide.n; ++panel) {
        turn_block(panel_row(&w->wide, panel, chunk * PANEL), panel_row(&w->tall, chunk, panel * PANEL));
    }
}

static void end_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const newton_job *w = arg;
    int64_t rows = least(PANEL, w->job->rows - chunk * PANEL);
    (void)worker;
    for (int64_t panel = 0; panel < w->own.n; ++panel) {
        const float *block = panel_row(&w->own, panel, chunk * PANEL);
        int64_t cols = least(PANEL, w->job->cols - panel * PANEL);
        for (int64_t r = 0; r < rows; ++r) {
            float *to = w->job->matrix + (chunk * PANEL + r) * w->job->cols + panel * PANEL;
            for (int64_t c = 0; c < cols; ++c) {
                to[c] = sherd__one_nan(block[r * PANEL + c] * w->scale + 0.0f);
            }
        }
    }
}

static newton_job newton_begin(const sherd__orthogonal *job)
{
    int turned = job->rows > job->cols;
    float *from = job->scratch + SHERD__MUON_HEAD;
    newton_job w = {.job = job, .norm = (sherd__norm *)(void *)job->scratch};
    w.m = turned ? job->cols : job->rows;
    w.n = turned ? job->rows : job->cols;
    w.wide = panels_take(&from, w.m, w.n);
    w.tall = panels_take(&from, w.n, w.m);
    w.gram = panels_take(&from, w.m, w.m);
    w.mix = panels_take(&from, w.m, w.m);
    w.own = turned ? w.tall : w.wide;
    w.other = turned ? w.wide : w.tall;
    w.scale = sherd__muon_scale(job->rows, job->cols);
    return w;
}

static void simd_orthogonalise(sherd__team *team, const sherd__orthogonal *job)
{
    newton_job w = newton_begin(job);
    int64_t heights = chunks_of(job->rows, PANEL);
    if (job->scalars && job->scalars->skip) {
        return;
    }
    sherd__norm_clear(w.norm);
    sherd__team_run(team, chunks_of(job->rows * job->cols, CHUNK), norm_chunk, &w);
    w.divisor = sherd__muon_divisor(w.norm);
    sherd__team_run(team, heights, begin_chunk, &w);
    for (int32_t i = 0; i < job->steps; ++i) {
        product_run(team, &w, &w.gram, &w.tall, &w.tall, w.n, gram_chunk);
        product_run(team, &w, &w.mix, &w.gram, &w.gram, w.m, mix_chunk);
        product_run(team, &w, &w.tall, &w.wide, &w.mix, w.m, step_chunk);
        sherd__team_run(team, w.tall.n, turn_chunk, &w);
    }
    sherd__team_run(team, heights, end_chunk, &w);
}

_Static_assert(sizeof(sherd__norm) <= SHERD__MUON_HEAD * sizeof(float), "the norm has its place");

#endif

/* SPDX-License-Identifier: MIT
 *
 * Fibres and the scheduler of simt.h. One machine per CPU thread (that is, per stream of the stub): its fibres are made
 * once and used for every block. The scheduler goes over the warps again and again; within a warp, over the lanes until
 * none can go on; so a warp runs ahead until a barrier, unless the seed mixes the order. When nobody can go on and not
 * all have ended, the barrier or operation that some did not reach is named.
 */
#include "tests/support/cuda_stub/simt.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/support/cuda_stub/simt_fibre.h"

namespace simt
{

__thread thread *now;

namespace
{

enum : size_t {
    THREADS_MAX = 1024,
    MEET_BYTES = 64,
    GUARD = 1024,
    SHARED_MAX = 227 * 1024,
    SHARED_UNASKED = 48 * 1024
};

std::mutex lock; /* of what follows */
std::unordered_map<const void *, size_t> allowed;
std::string sentence, told;
uint64_t seed_wanted, blocks_run;
size_t shared_limit = SHARED_MAX;
bool catching;

struct copy {
    void *to;
    const void *from;
    size_t bytes, valid_bytes;
    unsigned group;
};

/* One warp operation under way, or done and not read by all. */
struct meeting {
    unsigned mask, arrived, unread;
    place at;
    size_t bytes;
    alignas(16) char data[32 * MEET_BYTES];
};

enum state { READY, AT_BARRIER, AT_MEETING, ENDED };

struct fibre : thread {
    fibre_context context;
    enum state state;
    place at;       /* where it waits */
    meeting *held;  /* whose bytes it may still read */
    unsigned group; /* of cp.async, not committed yet */
    std::vector<copy> copies;
};

struct machine {
    fibre_context scheduler = {};
    std::vector<fibre> fibres = std::vector<fibre>(THREADS_MAX);
    /* By warp, lowest lane of the mask, and turn: while some read the last operation's bytes, others fill the next. */
    std::vector<std::unique_ptr<meeting>> meetings = std::vector<std::unique_ptr<meeting>>(THREADS_MAX * 2);
    std::vector<unsigned char> turns = std::vector<unsigned char>(THREADS_MAX);
    std::unique_ptr<char[]> shared{new char[SHARED_MAX + GUARD + 1024]};
    size_t made = 0;
    uint64_t seed = 0, random = 0;
    const grid *running = nullptr;
    unsigned threads = 0, ended = 0, at_barrier = 0;
    int yes = 0, yes_before = 0;
    place barrier = {};
    bool failed = false;

    ~machine()
    {
        for (size_t i = 0; i < made; i++)
            fibre_destroy(&fibres[i].context);
    }
};

bool same_place(const place &a, const place &b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

machine &self()
{
    static thread_local machine m;
    return m;
}

fibre &current()
{
    return *static_cast<fibre *>(now);
}

char *shared_base(machine &m)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(m.shared.get());
    return m.shared.get() + ((at + 1023) / 1024 * 1024 - at);
}

void poison(machine &m, bool on)
{
#if defined(SIMT__ASAN)
    char *end = shared_base(m) + m.running->shared_bytes;
    on ? __asan_poison_memory_region(end, GUARD) : __asan_unpoison_memory_region(end, GUARD);
#else
    (void)m, (void)on;
#endif
}

void report(const char *text)
{
    std::lock_guard<std::mutex> guard(lock);
    if (!catching) {
        fprintf(stderr, "simt: %s\n", text);
        abort();
    }
    if (sentence.empty())
        sentence = text;
}

void yield()
{
    fibre &f = current();
    fibre_switch(&f.context, &self().scheduler);
    now = &f;
}

void release(fibre &f)
{
    if (f.held)
        f.held->unread--;
    f.held = nullptr;
}

void copy_now(const copy &c)
{
    memcpy(c.to, c.from, c.valid_bytes);
    memset(static_cast<char *>(c.to) + c.valid_bytes, 0, c.bytes - c.valid_bytes);
}

void fibre_main()
{
    machine &m = self();
    fibre_entered(&m.scheduler);
    fibre &f = current();
    m.running->call(m.running->kernel_and_args);
    release(f);
    f.state = ENDED;
    m.ended++;
    yield();
    abort();
}

uint64_t draw(machine &m)
{
    m.random ^= m.random << 13;
    m.random ^= m.random >> 7;
    m.random ^= m.random << 17;
    return m.random;
}

/* The i-th of n in this seed's order; `mix` changes with every pass. */
unsigned pick(const machine &m, unsigned i, unsigned n, uint64_t mix)
{
    if (m.seed == 0)
        return i;
    if (m.seed == 1)
        return n - 1 - i;
    /* A rotation and a reversal drawn anew: cheap, and every pair of threads runs in both orders. */
    unsigned turned = (unsigned)((i + (mix >> 1)) % n);
    return mix & 1 ? n - 1 - turned : turned;
}

bool run_warp(machine &m, unsigned warp)
{
    unsigned first = warp * 32, n = min(32u, m.threads - first);
    bool any = false, again = true;
    while (again && !m.failed) {
        uint64_t mix = m.seed > 1 ? draw(m) : 0;
        again = false;
        for (unsigned i = 0; i < n && !m.failed; i++) {
            fibre &f = m.fibres[first + pick(m, i, n, mix)];
            if (f.state != READY)
                continue;
            now = &f;
            fibre_switch(&m.scheduler, &f.context);
            again = any = true;
        }
        again = again && m.seed <= 1;
    }
    return any;
}

void report_stuck(machine &m)
{
    const fibre *waits = nullptr, *other = nullptr;
    for (unsigned i = 0; i < m.threads; i++)
        waits = !waits && m.fibres[i].state != ENDED ? &m.fibres[i] : waits;
    unsigned same = 0;
    for (unsigned i = 0; i < m.threads; i++) {
        const fibre &f = m.fibres[i];
        bool there = f.state == waits->state && same_place(f.at, waits->at);
        same += there;
        other = !other && !there ? &f : other;
    }
    char text[512];
    int n = snprintf(text, sizeof text, "%s:%d: %u of %u threads wait at %s, which the others never reach",
                     waits->at.file, waits->at.line, same, m.threads, waits->at.what);
    if (other && other->state == ENDED)
        snprintf(text + n, sizeof text - (size_t)n, ": thread %u has ended", other->index);
    else if (other)
        snprintf(text + n, sizeof text - (size_t)n, ": thread %u waits at %s in %s:%d", other->index, other->at.what,
                 other->at.file, other->at.line);
    report(text);
}

void start_block(machine &m, dim3 at)
{
    const dim3 size = m.running->threads;
    memset(shared_base(m), 0xFF, m.running->shared_bytes + GUARD);
    for (unsigned i = 0; i < m.threads; i++) {
        fibre &f = m.fibres[i];
        f.thread_idx = {i % size.x, i / size.x % size.y, i / size.x / size.y};
        f.block_idx = {at.x, at.y, at.z};
        f.block_dim = size;
        f.grid_dim = m.running->blocks;
        f.index = i;
        f.lane = i % 32;
        f.warp = i / 32;
        f.state = READY;
        f.held = nullptr;
        f.group = 0;
        f.copies.clear();
        fibre_start(&f.context, fibre_main);
    }
    for (auto &meeting : m.meetings)
        if (meeting)
            meeting->mask = meeting->arrived = meeting->unread = 0;
    m.ended = m.at_barrier = 0;
    m.yes = 0;
}

void run_block(machine &m, dim3 at)
{
    start_block(m, at);
    poison(m, true);
    unsigned warps = (m.threads + 31) / 32;
    while (m.ended < m.threads && !m.failed) {
        uint64_t mix = m.seed > 1 ? draw(m) : 0;
        bool any = false;
        for (unsigned i = 0; i < warps && !m.failed; i++)
            any = run_warp(m, pick(m, i, warps, mix)) || any;
        if (!any && !m.failed) {
            m.failed = true;
            report_stuck(m);
        }
    }
    poison(m, false);
    const char *end = shared_base(m) + m.running->shared_bytes;
    for (size_t i = 0; i < GUARD && !m.failed; i++) {
        if (end[i] == (char)0xFF)
            continue;
        char text[160];
        snprintf(text, sizeof text, "block %u,%u,%u: wrote byte %zu behind its %zu bytes of dynamic shared memory",
                 at.x, at.y, at.z, i, m.running->shared_bytes);
        m.failed = true;
        report(text);
    }
}

void make_fibres(machine &m)
{
    for (; m.made < m.threads; m.made++)
        if (!fibre_create(&m.fibres[m.made].context))
            abort();
}

} // namespace

/* ------------------------------------------------------------------------------------------------- for kernels' use */

void fault(const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    report(text);
    self().failed = true;
    yield(); /* for good: the block is given up */
    abort();
}

void *dynamic_shared()
{
    return shared_base(self());
}

int sync_block(place at, int yes)
{
    machine &m = self();
    fibre &f = current();
    release(f);
    if (m.at_barrier > 0 && !same_place(m.barrier, at))
        fault("%s:%d: thread %u reaches this %s while others of its block wait at %s:%d", at.file, at.line, f.index,
              at.what, m.barrier.file, m.barrier.line);
    m.barrier = f.at = at;
    m.yes += yes != 0;
    f.state = AT_BARRIER;
    if (++m.at_barrier == m.threads) {
        m.yes_before = m.yes;
        m.yes = 0;
        m.at_barrier = 0;
        for (unsigned i = 0; i < m.threads; i++)
            m.fibres[i].state = READY;
    } else {
        yield();
    }
    return m.yes_before;
}

/* The block's last, and short, warp lacks lanes: a full mask means those that exist. */
static unsigned existing(const machine &m, const fibre &f, unsigned mask)
{
    unsigned n = m.threads - f.warp * 32;
    return n >= 32 ? mask : mask & ((1u << n) - 1);
}

static meeting &enter(machine &m, fibre &f, place at, unsigned mask, size_t bytes)
{
    unsigned slot = f.warp * 32 + (unsigned)__builtin_ctz(mask);
    std::unique_ptr<meeting> *pair = &m.meetings[2 * slot];
    if (!pair[0])
        for (int i = 0; i < 2; i++)
            pair[i].reset(new meeting());
    while (pair[m.turns[slot]]->unread > 0)
        yield();
    meeting &at_hand = *pair[m.turns[slot]];
    if (at_hand.arrived == 0) {
        at_hand.mask = mask;
        at_hand.at = at;
        at_hand.bytes = bytes;
    }
    if (at_hand.mask != mask || at_hand.bytes != bytes || !same_place(at_hand.at, at))
        fault("%s:%d: lane %u of warp %u reaches this %s (mask 0x%08x) while others wait at %s in %s:%d (mask 0x%08x)",
              at.file, at.line, f.lane, f.warp, at.what, mask, at_hand.at.what, at_hand.at.file, at_hand.at.line,
              at_hand.mask);
    return at_hand;
}

const void *meet(place at, unsigned mask, const void *in, size_t bytes, void (*finish)(void *all))
{
    machine &m = self();
    fibre &f = current();
    release(f);
    if (bytes > MEET_BYTES || !(mask >> f.lane & 1))
        fault("%s:%d: %s: lane %u is not in mask 0x%08x", at.file, at.line, at.what, f.lane, mask);
    mask = existing(m, f, mask);
    meeting &here = enter(m, f, at, mask, bytes);
    memcpy(here.data + f.lane * bytes, in, bytes);
    here.arrived |= 1u << f.lane;
    f.at = at;
    f.held = &here;
    if (here.arrived != mask) {
        f.state = AT_MEETING;
        yield();
        return here.data;
    }
    if (finish)
        finish(here.data);
    here.arrived = 0;
    here.unread = (unsigned)__builtin_popcount(mask);
    m.turns[f.warp * 32 + (unsigned)__builtin_ctz(mask)] ^= 1;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            m.fibres[f.warp * 32 + lane].state = READY;
    return here.data;
}

void async_copy(void *to, const void *from, size_t bytes, size_t valid_bytes)
{
    fibre &f = current();
    copy c = {to, from, bytes, valid_bytes, f.group};
    if (self().seed % 2 == 1)
        copy_now(c);
    else
        f.copies.push_back(c);
}

void async_commit()
{
    current().group++;
}

void async_wait(unsigned groups_left)
{
    fibre &f = current();
    size_t kept = 0;
    for (const copy &c : f.copies) {
        if (c.group + groups_left < f.group)
            copy_now(c);
        else
            f.copies[kept++] = c;
    }
    f.copies.resize(kept);
}

/* -------------------------------------------------------------------------------------------------------------
 * launches */

void run_grid(const grid &grid)
{
    machine &m = self();
    {
        std::lock_guard<std::mutex> guard(lock);
        m.seed = seed_wanted;
        blocks_run += (uint64_t)grid.blocks.x * grid.blocks.y * grid.blocks.z;
    }
    m.random = m.seed * 0x9E3779B97F4A7C15u + 1;
    m.running = &grid;
    m.threads = grid.threads.x * grid.threads.y * grid.threads.z;
    m.failed = false;
    make_fibres(m);
    uint64_t n = (uint64_t)grid.blocks.x * grid.blocks.y * grid.blocks.z, mix = m.seed > 1 ? draw(m) : 0;
    for (uint64_t i = 0; i < n && !m.failed; i++) {
        unsigned block = pick(m, (unsigned)i, (unsigned)n, mix);
        run_block(m, dim3(block % grid.blocks.x, block / grid.blocks.x % grid.blocks.y,
                          block / grid.blocks.x / grid.blocks.y));
    }
    now = nullptr;
}

cudaError_t check_launch(const void *kernel, dim3 blocks, dim3 threads, size_t shared_bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    auto asked = allowed.find(kernel);
    size_t limit = asked == allowed.end() ? (size_t)SHARED_UNASKED : max((size_t)SHARED_UNASKED, asked->second);
    uint64_t n = (uint64_t)threads.x * threads.y * threads.z, grid = (uint64_t)blocks.x * blocks.y * blocks.z;
    bool good = n > 0 && n <= THREADS_MAX && threads.z <= 64 && blocks.x <= 0x7FFFFFFF && blocks.y <= 65535 &&
                blocks.z <= 65535 && grid > 0 && grid <= 0x7FFFFFFF && shared_bytes <= min(limit, shared_limit);
    return good ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t allow_shared(const void *kernel, size_t bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    if (bytes > shared_limit)
        return cudaErrorInvalidValue;
    allowed[kernel] = bytes;
    return cudaSuccess;
}

} // namespace simt

/* --------------------------------------------------------------------------------------------------- for tests' use */

void simt_seed(uint64_t seed)
{
    std::lock_guard<std::mutex> guard(simt::lock);
    simt::seed_wanted = seed;
}

void simt_catch(int on)
{
    std::lock_guard<std::mutex> guard(simt::lock);
    simt::catching = on != 0;
}

const char *simt_fault(void)
{
    std::lock_guard<std::mutex> guard(simt::lock);
    simt::told = simt::sentence;
    simt::sentence.clear();
    return simt::told.c_str();
}

void simt_shared_limit(size_t bytes)
{
    std::lock_guard<std::mutex> guard(simt::lock);
    simt::shared_limit = bytes ? min(bytes, (size_t)simt::SHARED_MAX) : (size_t)simt::SHARED_MAX;
    simt::allowed.clear();
}

uint64_t simt_blocks(void)
{
    std::lock_guard<std::mutex> guard(simt::lock);
    return simt::blocks_run;
}

int simt_shared_optin(void)
{
    std::lock_guard<std::mutex> guard(simt::lock);
    return (int)simt::shared_limit;
}

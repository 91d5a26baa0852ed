/* SPDX-License-Identifier: MIT
 *
 * The messages, by number of their fields:
 *   Event       1 double wall_time, 2 int64 step, 3 string file_version, 5 Summary, 7 SessionLog
 *   Summary     1 repeated Value; Value: 1 string tag, 2 float simple_value
 *   SessionLog  1 status, 1 is START
 * A number of a message is preceded by its field · 8 + type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
 */
#include "cli/monitor_events.h"

#include <string.h>

enum { VARINT = 0, EIGHT = 1, BYTES = 2, FOUR = 5, MESSAGE_MAX = 2048 };

typedef struct message {
    unsigned char bytes[MESSAGE_MAX];
    size_t used;
} message;

/* A nibble at a time: records are small and few. */
uint32_t cli_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    static const uint32_t table[16] = {0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3,
                                       0x61C69362, 0x7198540D, 0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
                                       0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75};
    const unsigned char *at = data;

    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static void put(message *m, const void *data, size_t bytes)
{
    if (bytes <= sizeof m->bytes - m->used) {
        memcpy(m->bytes + m->used, data, bytes);
        m->used += bytes;
    }
}

static void put_little(message *m, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        put(m, &(unsigned char){(unsigned char)(value >> 8 * i)}, 1);
    }
}

static void put_varint(message *m, uint64_t value)
{
    for (; value >= 128; value >>= 7) {
        put(m, &(unsigned char){(unsigned char)(value | 128)}, 1);
    }
    put(m, &(unsigned char){(unsigned char)value}, 1);
}

static void put_field(message *m, int field, int type)
{
    put_varint(m, (uint64_t)field << 3 | (uint64_t)type);
}

static void put_block(message *m, int field, const void *data, size_t bytes)
{
    put_field(m, field, BYTES);
    put_varint(m, bytes);
    put(m, data, bytes);
}

static void put_double(message *m, int field, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    put_field(m, field, EIGHT);
    put_little(m, bits, 8);
}

static void put_float(message *m, int field, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    put_field(m, field, FOUR);
    put_little(m, bits, 4);
}

/* Checksums are rotated and shifted, so that one of data that holds checksums is not weak. */
static uint32_t masked(const void *data, size_t bytes)
{
    uint32_t crc = cli_crc32c(0, data, bytes);

    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static int write_record(FILE *out, const message *event)
{
    message record = {.used = 0};

    put_little(&record, event->used, 8);
    put_little(&record, masked(record.bytes, 8), 4);
    put(&record, event->bytes, event->used);
    put_little(&record, masked(event->bytes, event->used), 4);
    return record.used == event->used + 16 && fwrite(record.bytes, 1, record.used, out) == record.used;
}

static message event_at(double wall_time, int64_t step)
{
    message event = {.used = 0};

    put_double(&event, 1, wall_time);
    put_field(&event, 2, VARINT);
    put_varint(&event, (uint64_t)step);
    return event;
}

int cli_events_begin(FILE *out, double wall_time, int64_t step)
{
    static const char version[] = "brain.Event:2";
    static const unsigned char start[] = {1 << 3 | VARINT, 1};
    message first = event_at(wall_time, 0), forget = event_at(wall_time, step);

    put_block(&first, 3, version, sizeof version - 1);
    put_block(&forget, 7, start, sizeof start);
    return write_record(out, &first) && write_record(out, &forget);
}

int cli_events_scalars(FILE *out, double wall_time, int64_t step, const cli_scalar *scalars, size_t n)
{
    message event = event_at(wall_time, step), summary = {.used = 0};

    for (size_t i = 0; i < n; i++) {
        message value = {.used = 0};

        put_block(&value, 1, scalars[i].tag, strlen(scalars[i].tag));
        put_float(&value, 2, (float)scalars[i].value);
        put_block(&summary, 1, value.bytes, value.used);
    }
    put_block(&event, 5, summary.bytes, summary.used);
    return write_record(out, &event);
}

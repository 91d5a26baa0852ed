/* SPDX-License-Identifier: MIT
 *
 * Reading. The header is parsed by the JSON library and kept as its tree: names and metadata point into it. Then every
 * number is checked: the tensors, sorted by offset, must follow one another from the header to the file's last byte. So
 * a file that is truncated, or has bytes that no tensor owns, is refused before anything is read from it.
 */
#include "store/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/half.h"
#include "store/safetensors_types.h"

enum { PREFIX_BYTES = 8 };

struct sherd_safetensors {
    sherd_allocator allocator;
    const sherd__io *io;
    int fd; /* −1: a file in memory */
    char *path;
    size_t path_bytes;
    json_t *root;
    size_t count;
    sherd_tensor_info *tensors; /* by offset */
    uint32_t *by_name;          /* indices into tensors, in the order of strcmp */
};

static sherd_status refuse(const char *path, const char *tensor, const char *what, sherd_error *err)
{
    return sherd__fail(err, SHERD_EINVAL, "%.200s: tensor '%.100s': %s; it is no safetensors file, or a damaged one",
                       path, tensor, what);
}

/* -------------------------------------------------------------------------------------------------------- one entry */

static int read_pair(const json_t *list, uint64_t out[2])
{
    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_array_get(list, i);
        if (json_array_size(list) != 2 || !json_is_integer(value) || json_integer_value(value) < 0)
            return 0;
        out[i] = (uint64_t)json_integer_value(value);
    }
    return 1;
}

static int read_shape(const json_t *list, sherd_tensor_info *out)
{
    if (!json_is_array(list) || json_array_size(list) > SHERD_MAX_DIMS)
        return 0;
    out->ndim = (uint32_t)json_array_size(list);
    for (uint32_t i = 0; i < out->ndim; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return 0;
        out->shape[i] = json_integer_value(value);
    }
    return 1;
}

/* offset is relative to the data here, and made absolute when all is checked. */
static sherd_status read_entry(const char *path, const char *name, const json_t *entry, sherd_tensor_info *out,
                               sherd_error *err)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const sherd__safetensors_type *type = dtype ? sherd__safetensors_type_of(dtype) : NULL;
    uint64_t range[2];
    *out = (sherd_tensor_info){.name = name, .kind = -1};
    if (!type)
        return refuse(path, name, dtype ? "its dtype is not known" : "it has no dtype", err);
    out->dtype = type->name;
    out->kind = type->kind;
    if (!read_shape(json_object_get(entry, "shape"), out))
        return refuse(path, name, "its shape is no list of at most 8 sizes", err);
    if (!sherd__safetensors_extent(type, out->shape, out->ndim, &out->elems, &out->bytes))
        return refuse(path, name, "its shape has more elements than can be counted", err);
    if (!read_pair(json_object_get(entry, "data_offsets"), range))
        return refuse(path, name, "its data_offsets are no pair of offsets", err);
    if (range[1] < range[0] || range[1] - range[0] != out->bytes)
        return refuse(path, name, "its data_offsets do not fit its shape and dtype", err);
    out->offset = range[0];
    return SHERD_OK;
}

static sherd_status check_metadata(const char *path, json_t *metadata, sherd_error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return sherd__fail(err, SHERD_EINVAL, "%.200s: __metadata__ is no object", path);
    json_object_foreach(metadata, key, value) if (!json_is_string(value)) return sherd__fail(
        err, SHERD_EINVAL, "%.200s: __metadata__ '%.100s' is no string", path, key);
    return SHERD_OK;
}

/* ----------------------------------------------------------------------------------------------------- the whole
 * header */

static int by_offset(const void *a, const void *b)
{
    const sherd_tensor_info *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b, void *tensors)
{
    const sherd_tensor_info *all = tensors;
    return strcmp(all[*(const uint32_t *)a].name, all[*(const uint32_t *)b].name);
}

static sherd_status read_entries(sherd_safetensors *file, sherd_error *err)
{
    const char *key;
    json_t *value;
    size_t n = json_object_size(file->root);
    file->count = n - (json_object_get(file->root, SHERD__SAFETENSORS_METADATA) != NULL);
    if (file->count > UINT32_MAX)
        return sherd__fail(err, SHERD_EINVAL, "%.200s: it has more tensors than can be counted", file->path);
    file->tensors = sherd__alloc(&file->allocator, file->count, sizeof *file->tensors);
    file->by_name = sherd__alloc(&file->allocator, file->count, sizeof *file->by_name);
    if (!file->tensors || !file->by_name)
        return sherd__fail(err, SHERD_ENOMEM, "%.200s: no memory for the list of its tensors", file->path);
    size_t at = 0;
    json_object_foreach(file->root, key, value)
    {
        int metadata = strcmp(key, SHERD__SAFETENSORS_METADATA) == 0;
        sherd_status status = metadata ? check_metadata(file->path, value, err)
                                       : read_entry(file->path, key, value, &file->tensors[at++], err);
        if (status != SHERD_OK)
            return status;
    }
    return SHERD_OK;
}

/* The tensors cover [0, data_bytes) of the data. */
static sherd_status check_cover(const sherd_safetensors *file, uint64_t data_bytes, sherd_error *err)
{
    uint64_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        const sherd_tensor_info *tensor = &file->tensors[i];
        if (tensor->offset < end)
            return refuse(file->path, tensor->name, "it overlaps another one", err);
        if (tensor->offset > end)
            return refuse(file->path, tensor->name, "there is a gap before it", err);
        if (!sherd__add_u64(end, tensor->bytes, &end) || end > data_bytes)
            return refuse(file->path, tensor->name, "it ends after the file's end", err);
    }
    if (end != data_bytes)
        return sherd__fail(err, SHERD_EINVAL, "%.200s: %" PRIu64 " bytes follow the last tensor; it is a damaged file",
                           file->path, data_bytes - end);
    return SHERD_OK;
}

static sherd_status read_header(sherd_safetensors *file, const char *text, uint64_t bytes, uint64_t data_bytes,
                                sherd_error *err)
{
    json_error_t fault;
    file->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &fault);
    if (!file->root || !json_is_object(file->root))
        return sherd__fail(err, SHERD_EINVAL,
                           "%.200s: the header is no JSON object: %.100s; it is no safetensors file, or a "
                           "damaged one",
                           file->path, file->root ? "a list" : fault.text);
    sherd_status status = read_entries(file, err);
    if (status != SHERD_OK)
        return status;
    qsort(file->tensors, file->count, sizeof *file->tensors, by_offset);
    status = check_cover(file, data_bytes, err);
    if (status != SHERD_OK)
        return status;
    for (size_t i = 0; i < file->count; i++) {
        file->tensors[i].offset += PREFIX_BYTES + bytes; /* fits: it lies in the file */
        file->by_name[i] = (uint32_t)i;
    }
    qsort_r(file->by_name, file->count, sizeof *file->by_name, by_name, file->tensors);
    return SHERD_OK;
}

static sherd_status check_prefix(const char *path, const unsigned char prefix[PREFIX_BYTES], uint64_t file_bytes,
                                 uint64_t *header_bytes, sherd_error *err)
{
    uint64_t bytes = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        bytes = bytes << 8 | prefix[i];
    if (bytes > file_bytes - PREFIX_BYTES || bytes > SHERD__SAFETENSORS_HEADER_MAX)
        return sherd__fail(err, SHERD_EINVAL,
                           "%.200s: a header of %" PRIu64 " bytes does not fit in a file of %" PRIu64
                           " (nor may it be over %" PRIu64 "); it is no safetensors file, or a damaged one",
                           path, bytes, file_bytes, SHERD__SAFETENSORS_HEADER_MAX);
    *header_bytes = bytes;
    return SHERD_OK;
}

static sherd_status fail_short(const char *path, uint64_t bytes, sherd_error *err)
{
    return sherd__fail(err, SHERD_EINVAL, "%.200s: %" PRIu64 " bytes are too few for a safetensors file", path, bytes);
}

/* ---------------------------------------------------------------------------------------------------------- opening */

void sherd_safetensors_close(sherd_safetensors *file)
{
    if (!file)
        return;
    sherd_allocator memory = file->allocator;
    if (file->fd >= 0)
        (void)sherd__io_close(file->io, file->fd); /* only read from */
    json_decref(file->root);
    sherd__free(&memory, file->by_name, file->count, sizeof *file->by_name);
    sherd__free(&memory, file->tensors, file->count, sizeof *file->tensors);
    sherd__free(&memory, file->path, 1, file->path_bytes);
    sherd__free(&memory, file, 1, sizeof *file);
}

static sherd_status make(const char *path, const sherd_allocator *allocator, sherd_safetensors **out, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    sherd_safetensors *file = sherd__alloc(&memory, 1, sizeof *file);
    size_t bytes = strlen(path) + 1;
    char *copy = file ? sherd__alloc(&memory, 1, bytes) : NULL;
    if (!copy) {
        sherd__free(&memory, file, 1, sizeof *file);
        return sherd__fail(err, SHERD_ENOMEM, "%.200s: no memory to open it", path);
    }
    memcpy(copy, path, bytes);
    *file = (sherd_safetensors){.allocator = memory, .fd = -1, .path = copy, .path_bytes = bytes};
    *out = file;
    return SHERD_OK;
}

sherd_status sherd__safetensors_parse(const void *data, uint64_t bytes, uint64_t file_bytes, const char *name,
                                      const sherd_allocator *allocator, sherd_safetensors **out, sherd_error *err)
{
    sherd_safetensors *file = NULL;
    uint64_t header = 0;
    if (bytes < PREFIX_BYTES || file_bytes < bytes)
        return fail_short(name, bytes, err);
    sherd_status status = check_prefix(name, data, file_bytes, &header, err);
    if (status == SHERD_OK && header > bytes - PREFIX_BYTES)
        status = fail_short(name, bytes, err);
    if (status == SHERD_OK)
        status = make(name, allocator, &file, err);
    if (status == SHERD_OK)
        status = read_header(file, (const char *)data + PREFIX_BYTES, header, file_bytes - PREFIX_BYTES - header, err);
    if (status != SHERD_OK) {
        sherd_safetensors_close(file);
        return status;
    }
    *out = file;
    return SHERD_OK;
}

static sherd_status read_at(const sherd_safetensors *file, void *data, uint64_t bytes, uint64_t offset,
                            sherd_error *err)
{
    int code = sherd__io_pread_all(file->io, file->fd, data, bytes, offset, NULL);
    if (code < 0)
        return sherd__fail(err, SHERD_EIO, "%.200s: reading %" PRIu64 " bytes at offset %" PRIu64 " failed: %s",
                           file->path, bytes, offset, strerror(-code));
    return SHERD_OK;
}

static sherd_status load(sherd_safetensors *file, sherd_error *err)
{
    unsigned char prefix[PREFIX_BYTES];
    uint64_t file_bytes = 0, header = 0;
    file->fd = sherd__io_open(file->io, file->path, O_RDONLY, 0);
    int code = file->fd < 0 ? file->fd : sherd__io_size(file->io, file->fd, &file_bytes);
    if (code < 0)
        return sherd__fail(err, SHERD_EIO, "%.300s: it cannot be read: %s", file->path, strerror(-code));
    if (file_bytes < PREFIX_BYTES)
        return fail_short(file->path, file_bytes, err);
    sherd_status status = read_at(file, prefix, PREFIX_BYTES, 0, err);
    if (status == SHERD_OK)
        status = check_prefix(file->path, prefix, file_bytes, &header, err);
    if (status != SHERD_OK)
        return status;
    char *text = sherd__alloc(&file->allocator, 1, header);
    if (!text)
        return sherd__fail(err, SHERD_ENOMEM, "%.200s: no memory for its header of %" PRIu64 " bytes", file->path,
                           header);
    status = read_at(file, text, header, PREFIX_BYTES, err);
    if (status == SHERD_OK)
        status = read_header(file, text, header, file_bytes - PREFIX_BYTES - header, err);
    sherd__free(&file->allocator, text, 1, header);
    return status;
}

sherd_status sherd__safetensors_open(const char *path, const sherd_allocator *allocator, const sherd__io *io,
                                     sherd_safetensors **out, sherd_error *err)
{
    sherd_safetensors *file = NULL;
    if (!path || !out)
        return sherd__fail(err, SHERD_EINVAL, "sherd_safetensors_open: path or out is NULL");
    sherd_status status = make(path, allocator, &file, err);
    if (status != SHERD_OK)
        return status;
    file->io = io;
    status = load(file, err);
    if (status != SHERD_OK) {
        sherd_safetensors_close(file);
        return status;
    }
    *out = file;
    return SHERD_OK;
}

sherd_status sherd_safetensors_open(const char *path, const sherd_allocator *allocator, sherd_safetensors **out,
                                    sherd_error *err)
{
    return sherd__safetensors_open(path, allocator, NULL, out, err);
}

/* ---------------------------------------------------------------------------------------------------- what is in it */

size_t sherd_safetensors_count(const sherd_safetensors *file)
{
    return file->count;
}

sherd_status sherd_safetensors_info(const sherd_safetensors *file, size_t index, sherd_tensor_info *out)
{
    if (index >= file->count)
        return SHERD_EINVAL;
    *out = file->tensors[index];
    return SHERD_OK;
}

int64_t sherd_safetensors_find(const sherd_safetensors *file, const char *name)
{
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, file->tensors[file->by_name[middle]].name);
        if (order == 0)
            return file->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

const char *sherd_safetensors_metadata(const sherd_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->root, SHERD__SAFETENSORS_METADATA), key));
}

static sherd_status check_range(const sherd_safetensors *file, size_t index, int64_t first, int64_t elems,
                                const sherd_tensor_info **out, sherd_error *err)
{
    if (index >= file->count)
        return sherd__fail(err, SHERD_EINVAL, "%.200s: tensor %zu of %zu was asked for", file->path, index,
                           file->count);
    const sherd_tensor_info *tensor = &file->tensors[index];
    if (first < 0 || elems < 0 || elems > tensor->elems || first > tensor->elems - elems)
        return sherd__fail(err, SHERD_EINVAL,
                           "%.200s: tensor '%.100s': %" PRId64 " elements from %" PRId64
                           " were asked for, it has %" PRId64,
                           file->path, tensor->name, elems, first, tensor->elems);
    if (file->fd < 0)
        return sherd__fail(err, SHERD_ESTATE, "%.200s: only its header was parsed", file->path);
    *out = tensor;
    return SHERD_OK;
}

sherd_status sherd_safetensors_read(const sherd_safetensors *file, size_t index, int64_t first, int64_t elems,
                                    void *data, sherd_error *err)
{
    const sherd_tensor_info *tensor = NULL;
    sherd_status status = check_range(file, index, first, elems, &tensor, err);
    if (status != SHERD_OK || elems == 0)
        return status;
    uint64_t bits = sherd__safetensors_type_of(tensor->dtype)->bits;
    if (bits % 8 != 0)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "%.200s: tensor '%.100s': elements of %" PRIu64 " bits (%s) cannot be read", file->path,
                           tensor->name, bits, tensor->dtype);
    uint64_t each = bits / 8;
    return read_at(file, data, (uint64_t)elems * each, tensor->offset + (uint64_t)first * each, err);
}

static float f32_of_fp16(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16, exponent = value >> 10 & 31u, fraction = value & 0x3FFu;
    if (exponent == 31)
        return sherd__f32_of_bits(sign | 0x7F800000u | fraction << 13);
    if (exponent > 0)
        return sherd__f32_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float small = (float)fraction * 0x1p-24f; /* zero and subnormals: exact */
    return sign ? -small : small;
}

/* The narrow values lie in the upper half of `data`: value i is read before the wide ones have come that far. */
static void widen(float *data, int64_t elems, int32_t kind)
{
    const unsigned char *narrow = (const unsigned char *)data + 2 * (uint64_t)elems;
    for (int64_t i = 0; i < elems; i++) {
        uint16_t value;
        memcpy(&value, narrow + 2 * i, sizeof value);
        data[i] = kind == SHERD_BF16 ? sherd__f32_of_bf16(value) : f32_of_fp16(value);
    }
}

sherd_status sherd_safetensors_read_fp32(const sherd_safetensors *file, size_t index, int64_t first, int64_t elems,
                                         float *data, sherd_error *err)
{
    const sherd_tensor_info *tensor = NULL;
    sherd_status status = check_range(file, index, first, elems, &tensor, err);
    if (status != SHERD_OK)
        return status;
    if (tensor->kind < 0)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "%.200s: tensor '%.100s' is %s: only F32, BF16 and F16 can be read as fp32", file->path,
                           tensor->name, tensor->dtype);
    if (tensor->kind == SHERD_FP32)
        return sherd_safetensors_read(file, index, first, elems, data, err);
    status = sherd_safetensors_read(file, index, first, elems, (unsigned char *)data + 2 * (uint64_t)elems, err);
    if (status == SHERD_OK)
        widen(data, elems, tensor->kind);
    return status;
}

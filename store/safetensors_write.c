/* SPDX-License-Identifier: MIT
 *
 * Writing. The whole header is known before the first tensor's bytes, so they stream behind it, through one durable
 * file that counts and digests them.
 */
#include "store/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "store/safetensors_types.h"

enum { PREFIX_BYTES = 8, HEADER_UNIT = 8 };

struct sherd__safetensors_writer {
    sherd_allocator allocator;
    sherd__durable *file;
    uint64_t expected, written; /* bytes of tensors */
};

/* ----------------------------------------------------------------------------------------------------------- the
 * header */

static sherd_status add_metadata(json_t *root, const sherd__pair *metadata, uint32_t n, sherd_error *err)
{
    json_t *object = json_object();
    if (json_object_set_new(root, SHERD__SAFETENSORS_METADATA, object) != 0)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a safetensors header");
    for (uint32_t i = 0; i < n; i++)
        if (json_object_get(object, metadata[i].key) ||
            json_object_set_new(object, metadata[i].key, json_string(metadata[i].value)) != 0)
            return sherd__fail(err, SHERD_EINVAL, "metadata '%.100s' comes twice or is no UTF-8", metadata[i].key);
    return SHERD_OK;
}

static json_t *entry_of(const sherd__tensor *tensor, const char *dtype, uint64_t begin, uint64_t end)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < tensor->ndim; i++)
        if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)end);
}

static sherd_status add_tensor(json_t *root, const sherd__tensor *tensor, uint64_t *end, sherd_error *err)
{
    const sherd__safetensors_type *type = sherd__safetensors_type_of(tensor->dtype);
    int64_t elems;
    uint64_t bytes, begin = *end;
    if (!type || tensor->ndim > SHERD_MAX_DIMS ||
        !sherd__safetensors_extent(type, tensor->shape, tensor->ndim, &elems, &bytes))
        return sherd__fail(err, SHERD_EINVAL, "tensor '%.100s' of type %.20s has no size that can be written",
                           tensor->name, tensor->dtype);
    if (type->bits >= 8 && begin % (type->bits / 8) != 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "tensor '%.100s' would begin at byte %" PRIu64 ", which its type %s cannot: put "
                           "wide types first",
                           tensor->name, begin, type->name);
    if (!sherd__add_u64(begin, bytes, end) || *end > (uint64_t)INT64_MAX)
        return sherd__fail(err, SHERD_EINVAL, "tensor '%.100s' makes the file longer than can be counted",
                           tensor->name);
    if (strcmp(tensor->name, SHERD__SAFETENSORS_METADATA) == 0 || json_object_get(root, tensor->name) ||
        json_object_set_new(root, tensor->name, entry_of(tensor, type->name, begin, *end)) != 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "tensor '%.100s' comes twice, has a name that is kept for something else, or one "
                           "that is no UTF-8",
                           tensor->name);
    return SHERD_OK;
}

/* The text, padded with blanks to a multiple of 8 so that the data is aligned. free() */
static sherd_status make_header(const sherd__tensor *tensors, uint32_t n_tensors, const sherd__pair *metadata,
                                uint32_t n_metadata, char **out, uint64_t *bytes, uint64_t *data_bytes,
                                sherd_error *err)
{
    json_t *root = json_object();
    char *text = NULL, *padded = NULL;
    uint64_t end = 0;
    sherd_status status = n_metadata > 0 ? add_metadata(root, metadata, n_metadata, err) : SHERD_OK;
    for (uint32_t i = 0; i < n_tensors && status == SHERD_OK; i++)
        status = add_tensor(root, &tensors[i], &end, err);
    if (status == SHERD_OK && !(text = json_dumps(root, JSON_COMPACT)))
        status = sherd__fail(err, SHERD_ENOMEM, "no memory for a safetensors header");
    if (status == SHERD_OK) {
        size_t length = strlen(text), whole = (length + HEADER_UNIT - 1) / HEADER_UNIT * HEADER_UNIT;
        padded = realloc(text, whole + 1);
        if (padded && whole <= SHERD__SAFETENSORS_HEADER_MAX) {
            memset(padded + length, ' ', whole - length);
            *out = padded;
            *bytes = whole;
            *data_bytes = end;
            text = NULL;
        } else {
            status = sherd__fail(err, padded ? SHERD_EINVAL : SHERD_ENOMEM,
                                 "a safetensors header of %zu bytes is too long", whole);
            text = padded ? padded : text;
        }
    }
    free(text);
    json_decref(root);
    return status;
}

/* --------------------------------------------------------------------------------------------------------- the file */

static sherd_status write_header(sherd__durable *file, const char *text, uint64_t bytes, sherd_error *err)
{
    unsigned char prefix[PREFIX_BYTES];
    for (int i = 0; i < PREFIX_BYTES; i++)
        prefix[i] = (unsigned char)(bytes >> 8 * i);
    sherd_status status = sherd__durable_write(file, prefix, sizeof prefix, err);
    return status == SHERD_OK ? sherd__durable_write(file, text, bytes, err) : status;
}

sherd_status sherd__safetensors_create(const char *path, const sherd__tensor *tensors, uint32_t n_tensors,
                                       const sherd__pair *metadata, uint32_t n_metadata,
                                       const sherd_allocator *allocator, const sherd__io *io,
                                       sherd__safetensors_writer **out, sherd_error *err)
{
    char *text = NULL;
    uint64_t bytes = 0, data_bytes = 0;
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    sherd_status status = make_header(tensors, n_tensors, metadata, n_metadata, &text, &bytes, &data_bytes, err);
    if (status != SHERD_OK)
        return status;
    sherd__safetensors_writer *writer = sherd__alloc(&memory, 1, sizeof *writer);
    status = writer ? SHERD_OK : sherd__fail(err, SHERD_ENOMEM, "no memory to write '%.300s'", path);
    if (status == SHERD_OK) {
        *writer = (sherd__safetensors_writer){.allocator = memory, .expected = data_bytes};
        status = sherd__durable_create(path, &memory, io, &writer->file, err);
    }
    if (status == SHERD_OK)
        status = write_header(writer->file, text, bytes, err);
    free(text);
    if (status != SHERD_OK) {
        sherd__safetensors_abandon(writer);
        return status;
    }
    *out = writer;
    return SHERD_OK;
}

sherd_status sherd__safetensors_write(sherd__safetensors_writer *writer, const void *data, uint64_t bytes,
                                      sherd_error *err)
{
    if (bytes > writer->expected - writer->written)
        return sherd__fail(err, SHERD_EINVAL, "%" PRIu64 " bytes more were written than the tensors of the header have",
                           bytes - (writer->expected - writer->written));
    sherd_status status = sherd__durable_write(writer->file, data, bytes, err);
    writer->written += status == SHERD_OK ? bytes : 0;
    return status;
}

void sherd__safetensors_abandon(sherd__safetensors_writer *writer)
{
    if (!writer)
        return;
    sherd_allocator memory = writer->allocator;
    sherd__durable_abandon(writer->file);
    sherd__free(&memory, writer, 1, sizeof *writer);
}

sherd_status sherd__safetensors_commit(sherd__safetensors_writer *writer, uint64_t *bytes,
                                       uint8_t digest[SHERD__DIGEST_BYTES], sherd_error *err)
{
    sherd_status status = SHERD_OK;
    if (writer->written != writer->expected) {
        status = sherd__fail(err, SHERD_EINVAL, "%" PRIu64 " of %" PRIu64 " bytes of tensors were written",
                             writer->written, writer->expected);
    } else {
        status = sherd__durable_commit(writer->file, bytes, digest, err);
        writer->file = NULL;
    }
    sherd__safetensors_abandon(writer);
    return status;
}

uint64_t sherd__safetensors_file_bytes(const sherd__tensor *tensors, uint32_t n_tensors, const sherd__pair *metadata,
                                       uint32_t n_metadata)
{
    char *text = NULL;
    uint64_t bytes = 0, data_bytes = 0;
    if (make_header(tensors, n_tensors, metadata, n_metadata, &text, &bytes, &data_bytes, NULL) != SHERD_OK)
        return 0;
    free(text);
    return PREFIX_BYTES + bytes + data_bytes;
}

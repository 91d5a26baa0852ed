/* SPDX-License-Identifier: MIT
 *
 * sherd checkpoint: what a folder of checkpoints holds, whether it is whole, and its weights as a file of their own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/results.h"
#include "cli/units.h"

enum { PATH_BYTES = 1100, COPY_BYTES = 1 << 20 };

/* ---- the folders of DIR, whole or not */

static int is_step(const struct dirent *entry)
{
    size_t digits = strncmp(entry->d_name, "step-", 5) == 0 ? strspn(entry->d_name + 5, "0123456789") : 0;
    return digits > 0 && entry->d_name[5 + digits] == '\0';
}

/* Calls `each` for DIR/step-N in the order of N, or for DIR where it is one itself. Code of the first that is not
 * CLI_OK. */
static int for_each_step(const char *dir, int (*each)(const char *folder))
{
    struct dirent **found = NULL;
    int n = scandir(dir, &found, is_step, versionsort), code = CLI_OK;

    if (n < 0) {
        cli_message(-1, "%s: %s", dir, strerror(errno));
        return CLI_FAILED;
    }
    for (int i = 0; i < n; i++) {
        char folder[PATH_BYTES];
        int one;

        snprintf(folder, sizeof folder, "%s/%s", dir, found[i]->d_name);
        one = each(folder);
        code = code == CLI_OK ? one : code;
        free(found[i]);
    }
    free(found);
    return n > 0 ? code : each(dir);
}

static int list_one(const char *folder)
{
    sherd_checkpoint c;
    sherd_error err;
    char bytes[32];

    sherd_checkpoint_init(&c, sizeof c);
    if (sherd_checkpoint_read(folder, &c, &err) != SHERD_OK) {
        printf("%s: %s\n", folder, err.text);
        return CLI_FAILED;
    }
    printf("%s: step %lld, %lld updates, %s, %d rank%s at stage %d, %s, state's hash ", c.folder, (long long)c.step,
           (long long)c.updates, c.optimizer, (int)c.world, c.world > 1 ? "s" : "", (int)c.stage,
           cli_bytes_text(c.bytes, bytes, sizeof bytes));
    cli_print_hash(stdout, c.state_hash);
    putchar('\n');
    return CLI_OK;
}

static int verify_one(const char *folder)
{
    sherd_error err;

    if (sherd_checkpoint_verify(folder, &err) != SHERD_OK) {
        printf("%s: bad: %s\n", folder, err.text);
        return CLI_FAILED;
    }
    printf("%s: whole\n", folder);
    return CLI_OK;
}

static void show_tensor(const sherd_tensor_info *info)
{
    printf("  %-60s %-5s", info->name, info->dtype);
    for (uint32_t d = 0; d < info->ndim; d++) {
        printf("%s%lld", d > 0 ? " x " : " ", (long long)info->shape[d]);
    }
    putchar('\n');
}

static int show(const char *dir)
{
    char path[PATH_BYTES + 32];
    sherd_safetensors *model;
    sherd_tensor_info info;
    sherd_checkpoint c;
    sherd_error err;
    int code = list_one(dir);

    sherd_checkpoint_init(&c, sizeof c);
    if (code != CLI_OK || sherd_checkpoint_read(dir, &c, &err) != SHERD_OK) {
        return CLI_FAILED;
    }
    printf("  sampler: seed %llu, position %llu\n  lr %.17g, loss scale %.17g\n  client: %s\n  parameters' hash ",
           (unsigned long long)c.sampler_seed, (unsigned long long)c.sampler_position, c.lr, c.loss_scale, c.client);
    cli_print_hash(stdout, c.param_hash);
    printf("\n  %u files; weights:\n", (unsigned)c.n_files);
    snprintf(path, sizeof path, "%s/model.safetensors", c.folder);
    if (sherd_safetensors_open(path, NULL, &model, &err) != SHERD_OK) {
        return cli_failure(-1, &err);
    }
    for (size_t i = 0; sherd_safetensors_info(model, i, &info) == SHERD_OK; i++) {
        show_tensor(&info);
    }
    sherd_safetensors_close(model);
    return CLI_OK;
}

/* ---- export */

static sherd_status copy(int from, int to, const char *name, sherd_error *err)
{
    char *block = malloc(COPY_BYTES);
    ssize_t n = -1;

    while (block != NULL && (n = read(from, block, COPY_BYTES)) > 0) {
        for (ssize_t done = 0, part; done < n; done += part) {
            part = write(to, block + done, (size_t)(n - done));
            if (part < 0) {
                free(block);
                return cli_fail(err, SHERD_EIO, "%.300s: %s", name, strerror(errno));
            }
        }
    }
    free(block);
    return n == 0 && fsync(to) == 0 ? SHERD_OK : cli_fail(err, SHERD_EIO, "%.300s: %s", name, strerror(errno));
}

/* Beside its place first, so that a full disk leaves nothing that looks whole. */
static sherd_status export_model(const char *dir, const char *out, sherd_error *err)
{
    char from[PATH_BYTES + 32], beside[PATH_BYTES];
    sherd_checkpoint c;
    sherd_status status;
    int in, to;

    sherd_checkpoint_init(&c, sizeof c);
    status = sherd_checkpoint_read(dir, &c, err);
    if (status == SHERD_OK) {
        status = sherd_checkpoint_verify(c.folder, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    snprintf(from, sizeof from, "%s/model.safetensors", c.folder);
    if (snprintf(beside, sizeof beside, "%s.tmp", out) >= (int)sizeof beside) {
        return cli_fail(err, SHERD_EINVAL, "--out: the name is too long");
    }
    in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0) {
        return cli_fail(err, SHERD_EIO, "%.300s: %s", from, strerror(errno));
    }
    to = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    status = to >= 0 ? copy(in, to, beside, err) : cli_fail(err, SHERD_EIO, "%.300s: %s", beside, strerror(errno));
    close(in);
    if (to >= 0 && close(to) != 0 && status == SHERD_OK) {
        status = cli_fail(err, SHERD_EIO, "%.300s: %s", beside, strerror(errno));
    }
    if (status == SHERD_OK && rename(beside, out) != 0) {
        status = cli_fail(err, SHERD_EIO, "%.300s: %s", out, strerror(errno));
    }
    if (status != SHERD_OK && to >= 0) {
        unlink(beside);
    }
    return status;
}

int cli_checkpoint(const cli_options *options)
{
    const char *what = options->n_words == 2 ? options->words[0] : "", *dir = options->words[1];
    sherd_error err;

    if (strcmp(what, "list") == 0) {
        return for_each_step(dir, list_one);
    }
    if (strcmp(what, "verify") == 0) {
        return for_each_step(dir, verify_one);
    }
    if (strcmp(what, "show") == 0) {
        return show(dir);
    }
    if (strcmp(what, "export") == 0 && options->out != NULL) {
        return export_model(dir, options->out, &err) == SHERD_OK ? CLI_OK : cli_failure(-1, &err);
    }
    return cli_usage("checkpoint needs list, verify, show or export, and a folder; export needs --out FILE too");
}

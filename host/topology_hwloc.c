/* SPDX-License-Identifier: MIT
 *
 * The machine as hwloc sees it, or a synthetic or recorded one. Components that would start a GPU's driver only to name
 * it are left out: where a GPU hangs is seen from its PCI device.
 */
#include <hwloc.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "host/topology_raw.h"

const char *sherd__topology_hwloc_missing(void)
{
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------------
 * processors */

static int32_t lowest_of(hwloc_const_cpuset_t set, int32_t fallback)
{
    int first = set ? hwloc_bitmap_first(set) : -1;
    return first < 0 ? fallback : first;
}

static hwloc_obj_t above(hwloc_topology_t topology, hwloc_obj_type_t type, hwloc_obj_t object)
{
    return hwloc_get_ancestor_obj_by_type(topology, type, object);
}

static void read_cpu(hwloc_topology_t topology, hwloc_obj_t pu, sherd__raw_topology *raw)
{
    hwloc_obj_t core = above(topology, HWLOC_OBJ_CORE, pu), package = above(topology, HWLOC_OBJ_PACKAGE, pu);
    hwloc_obj_t l3 = above(topology, HWLOC_OBJ_L3CACHE, pu);
    sherd__raw_cpu *cpu = &raw->cpus[raw->n_cpus++];
    *cpu = (sherd__raw_cpu){
        .os = (int32_t)pu->os_index, .node = -1, .l3 = -1, .package = -1, .core = (int32_t)pu->os_index};
    cpu->allowed = hwloc_bitmap_isset(hwloc_topology_get_allowed_cpuset(topology), pu->os_index);
    if (core)
        cpu->core = lowest_of(core->cpuset, cpu->os);
    if (package)
        cpu->package = (int32_t)package->logical_index;
    if (l3)
        cpu->l3 = lowest_of(l3->cpuset, cpu->os);
    /* Where several nodes are local (fast and large memory), the first is the home; the others have no cores of their
     * own. */
    if (pu->nodeset && hwloc_bitmap_weight(pu->nodeset) > 0)
        cpu->node = hwloc_bitmap_first(pu->nodeset);
}

static sherd_status read_cpus(hwloc_topology_t topology, sherd__raw_topology *raw, sherd_error *err)
{
    hwloc_obj_t pu = NULL;
    while ((pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != NULL) {
        if (raw->n_cpus == SHERD__PIN_CPUS || pu->os_index >= SHERD__PIN_CPUS)
            return sherd__fail(err, SHERD_EUNSUPPORTED, "processor %u: at most %d are supported", pu->os_index,
                               SHERD__PIN_CPUS);
        read_cpu(topology, pu, raw);
    }
    return SHERD_OK;
}

static void read_caches(hwloc_topology_t topology, sherd__raw_topology *raw)
{
    static const hwloc_obj_type_t types[] = {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE,
                                             HWLOC_OBJ_L4CACHE};
    for (int32_t i = 0; i < 4; i++)
        for (hwloc_obj_t cache = NULL; (cache = hwloc_get_next_obj_by_type(topology, types[i], cache)) != NULL;)
            sherd__raw_add_cache(raw, i + 1, cache->attr->cache.size);
}

/* -----------------------------------------------------------------------------------------------------------------
 * nodes */

static sherd_status read_nodes(hwloc_topology_t topology, sherd__raw_topology *raw, sherd_error *err)
{
    int count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
    if (count > SHERD__MAX_NODES)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "%d memory nodes: at most %d are supported", count,
                           SHERD__MAX_NODES);
    for (hwloc_obj_t node = NULL; (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != NULL;) {
        hwloc_obj_t package = above(topology, HWLOC_OBJ_PACKAGE, node);
        raw->nodes[raw->n_nodes++] = (sherd__raw_node){
            .os = (int32_t)node->os_index,
            .allowed = hwloc_bitmap_isset(hwloc_topology_get_allowed_nodeset(topology), node->os_index),
            .package = package ? (int32_t)package->logical_index : -1,
            .bytes = node->attr->numanode.local_memory,
        };
    }
    return SHERD_OK;
}

static int32_t raw_index(const sherd__raw_topology *raw, hwloc_obj_t node)
{
    for (int32_t i = 0; node && i < raw->n_nodes; i++)
        if (raw->nodes[i].os == (int32_t)node->os_index)
            return i;
    return -1;
}

static void copy_distances(const struct hwloc_distances_s *from, sherd__raw_topology *raw)
{
    for (unsigned int i = 0; i < from->nbobjs; i++)
        for (unsigned int k = 0; k < from->nbobjs; k++) {
            int32_t a = raw_index(raw, from->objs[i]), b = raw_index(raw, from->objs[k]);
            uint64_t value = from->values[i * from->nbobjs + k];
            if (a >= 0 && b >= 0 && value > 0 && value <= UINT16_MAX)
                raw->nodes[a].distance[b] = (uint16_t)value;
        }
}

static void read_distances(hwloc_topology_t topology, sherd__raw_topology *raw)
{
    struct hwloc_distances_s *found[1];
    unsigned int n = 1;
    if (hwloc_distances_get_by_type(topology, HWLOC_OBJ_NUMANODE, &n, found, HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) !=
            0 ||
        n == 0)
        return;
    copy_distances(found[0], raw);
    hwloc_distances_release(topology, found[0]);
}

/* ------------------------------------------------------------------------------------------------------------------
 * GPUs */

static const char *model_of(hwloc_obj_t device)
{
    for (hwloc_obj_t child = device->io_first_child; child; child = child->next_sibling) {
        const char *model = hwloc_obj_get_info_by_name(child, "GPUModel");
        if (model)
            return model;
    }
    return hwloc_obj_get_info_by_name(device, "PCIDevice");
}

static void read_gpu(hwloc_topology_t topology, hwloc_obj_t device, sherd__raw_topology *raw)
{
    const struct hwloc_pcidev_attr_s *pci = &device->attr->pcidev;
    int kind = pci->class_id >> 8;
    if ((kind != 0x03 && kind != 0x12) || raw->n_gpus == SHERD__RAW_GPUS)
        return;
    sherd__raw_gpu *gpu = &raw->gpus[raw->n_gpus++];
    sherd__pci_print((uint64_t)pci->domain << 16 | (uint64_t)pci->bus << 8 | (uint64_t)pci->dev << 3 | pci->func,
                     gpu->pci);
    const char *model = model_of(device);
    if (model)
        snprintf(gpu->model, sizeof gpu->model, "%s", model);
    else
        snprintf(gpu->model, sizeof gpu->model, "%04x:%04x", pci->vendor_id, pci->device_id);
    hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology, device);
    /* The whole machine's nodes are no locality, unless it has one node only. */
    int all = hwloc_bitmap_isequal(near->nodeset, hwloc_topology_get_topology_nodeset(topology)) && raw->n_nodes > 1;
    int os;
    for (os = hwloc_bitmap_first(near->nodeset); !all && os >= 0 && gpu->n_near < SHERD__MAX_NODES;
         os = hwloc_bitmap_next(near->nodeset, os))
        gpu->near[gpu->n_near++] = os;
}

/* --------------------------------------------------------------------------------------------------------------
 * loading */

static sherd_status choose_source(hwloc_topology_t topology, const sherd__topology_options *options,
                                  sherd__raw_topology *raw, sherd_error *err)
{
    const char *text = options->text ? options->text : "";
    unsigned int version = hwloc_get_api_version();
    switch (options->from) {
    case SHERD__TOPOLOGY_SYNTHETIC:
        snprintf(raw->source, sizeof raw->source, "synthetic '%.100s'", text);
        if (hwloc_topology_set_synthetic(topology, text) == 0)
            return SHERD_OK;
        return sherd__fail(err, SHERD_EINVAL, "hwloc does not understand the synthetic machine '%s'", text);
    case SHERD__TOPOLOGY_XML:
        snprintf(raw->source, sizeof raw->source, "recorded machine");
        if (hwloc_topology_set_xmlbuffer(topology, text, (int)strlen(text) + 1) == 0)
            return SHERD_OK;
        return sherd__fail(err, SHERD_EINVAL, "hwloc does not understand the XML of a machine");
    default:
        snprintf(raw->source, sizeof raw->source, "hwloc (API %u.%u)", version >> 16, version >> 8 & 0xFF);
        return SHERD_OK;
    }
}

/* HWLOC_XMLFILE and its like may put another machine in the place of this one: then its affinity is not the process's.
 */
static void keep_affinity(hwloc_topology_t topology, sherd__raw_topology *raw)
{
    if (!hwloc_topology_is_thissystem(topology))
        return;
    for (int32_t i = 0; i < raw->n_cpus; i++)
        raw->cpus[i].allowed = raw->cpus[i].allowed && sherd__pin_allows(raw->cpus[i].os);
}

static sherd_status read_all(hwloc_topology_t topology, sherd__raw_topology *raw, sherd_error *err)
{
    sherd_status status = read_nodes(topology, raw, err);
    if (status == SHERD_OK)
        status = read_cpus(topology, raw, err);
    if (status != SHERD_OK)
        return status;
    keep_affinity(topology, raw);
    read_distances(topology, raw);
    read_caches(topology, raw);
    for (hwloc_obj_t device = NULL; (device = hwloc_get_next_pcidev(topology, device)) != NULL;)
        read_gpu(topology, device, raw);
    return SHERD_OK;
}

sherd_status sherd__topology_read_hwloc(const sherd__topology_options *options, sherd__raw_topology *raw,
                                        sherd_error *err)
{
    static const char *const drivers[] = {"cuda", "nvml", "opencl", "gl", "rsmi", "levelzero"};
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return sherd__fail(err, SHERD_ENOMEM, "hwloc could not be started");
    for (size_t i = 0; i < sizeof drivers / sizeof drivers[0]; i++)
        (void)hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, drivers[i]);
    (void)hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    (void)hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    sherd_status status = choose_source(topology, options, raw, err);
    if (status == SHERD_OK && hwloc_topology_load(topology) != 0)
        status = sherd__fail(err, SHERD_ESYSTEM, "hwloc could not read %s", raw->source);
    if (status == SHERD_OK)
        status = read_all(topology, raw, err);
    hwloc_topology_destroy(topology);
    return status;
}

/* SPDX-License-Identifier: MIT */
#include "host/topology_raw.h"

const char *sherd__topology_hwloc_missing(void)
{
    return "built without hwloc";
}

sherd_status sherd__topology_read_hwloc(const sherd__topology_options *options, sherd__raw_topology *raw,
                                        sherd_error *err)
{
    (void)options;
    (void)raw;
    return sherd__fail(err, SHERD_EUNSUPPORTED,
                       "synthetic and recorded machines need hwloc: this library was built without it");
}

/* DPDK's ports on the paper NICs: one for each way that the driver is used, so that works take turns unchanged. */
#ifndef PORT_H
#define PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "paper.h"

struct rte_mempool;

/* How a port is set up, and the words by which the driver's own log says that it took the path that is meant. */
struct port_kind {
	uint64_t tx_offloads, rx_offloads;
	bool receives;
	const char *path;
};

struct port {
	const struct port_kind *kind;
	struct paper *nic;
	uint16_t id;
	uint16_t ring;                /* descriptors; 0 before the first configuration */
	struct rte_mempool *frames;   /* of 2 KiB buffers */
	struct rte_mempool *payloads; /* without buffers of their own */
	char path[128];               /* what the driver said that it chose */
};

/* Set the port up with a ring of `ring` descriptors, unless it has one. NULL, or why not. */
const char *port_configure(struct port *port, uint16_t ring);

/* Stop the port and forget its buffers, also those that a run that failed has lost. */
void port_reset(struct port *port);

#endif

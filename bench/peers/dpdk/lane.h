/* The timed bodies: one burst of each work, as a program with DPDK would write it. */
#ifndef LANE_H
#define LANE_H

#include <stdint.h>

#include <rte_mbuf.h>

/* What a burst needs, together. */
struct lane {
	uint16_t port, burst, payload;
	struct rte_mempool *frames, *payloads;
	uint8_t *file;      /* the bytes that payloads are pages of */
	uint64_t file_bytes;
	uint64_t at;        /* where the next payload begins */
	uint64_t seen;      /* sum of what was looked at in received frames */
	struct rte_mbuf_ext_shared_info *owner; /* of the file's bytes */
};

/* One burst; returns how many frames went or came. */
typedef unsigned (*burst_fn)(struct lane *lane);

/*
 * Every body exists twice: under the name that a profiler counts, and under one that it does not, for warming up.
 */
struct burst {
	burst_fn timed, untimed;
};

extern const struct burst tx_small, tx_page, rx_small, rx_raw;

#endif

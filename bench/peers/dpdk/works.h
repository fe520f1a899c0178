/* The works of the race: what is timed. */
#ifndef WORKS_H
#define WORKS_H

#include <stdbool.h>
#include <stdint.h>

#include "port.h"
#include "slot.h"

enum {
	WORKS = SLOTS, /* each has a port of its own */
	MAX_BURST = 256,
	HEADER_BYTES = 54,      /* Ethernet, IPv4 and TCP without options */
	MAX_PAYLOAD = 16 * 1024, /* what one descriptor may name */
};

struct request {
	uint32_t ring, burst, cache_mib, payload;
	uint64_t frames;
};

/* What one run came to. */
struct result {
	uint64_t ns;
	struct paper_counts count;
	const char *path; /* the driver's own words for it */
};

/* Name of a work, or NULL past the last. */
const char *work_name(unsigned work);

/* Find the ports that works_run() will use; after rte_eal_init(). NULL, or why not. */
const char *works_open(void);

void works_close(void);

/* NULL, or why the run is void. */
const char *works_run(unsigned work, const struct request *request, struct result *result);

#endif

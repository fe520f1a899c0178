/* See works.h. */
#include "works.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <rte_ethdev.h>

#include "lane.h"
#include "slot.h"

#define CHECKSUMS (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM)

/* This driver has no MBUF_FAST_FREE: its vector path assumes as much by itself. */
static const struct work {
	const char *name;
	const struct burst *burst;
	struct port_kind kind;
	unsigned segments; /* descriptors a frame */
	bool paged;        /* header and payload, with checksums */
} works[WORKS] = {
	{"tx60", &tx_small, {.path = "Vector tx enabled"}, 1, false},
	{"tx60-full", &tx_small,
	 {.tx_offloads = CHECKSUMS | RTE_ETH_TX_OFFLOAD_MULTI_SEGS, .path = "Using full-featured tx code path"}, 1, false},
	{"tx-page", &tx_page,
	 {.tx_offloads = CHECKSUMS | RTE_ETH_TX_OFFLOAD_MULTI_SEGS, .path = "Using full-featured tx code path"}, 2, true},
	{"rx60", &rx_small, {.receives = true, .path = "Vector rx enabled"}, 1, false},
	{"rx60-raw", &rx_raw, {.receives = true, .path = "Vector rx enabled"}, 1, false},
	{"rx60-scatter", &rx_small,
	 {.rx_offloads = RTE_ETH_RX_OFFLOAD_SCATTER | RTE_ETH_RX_OFFLOAD_CHECKSUM, .receives = true,
	  .path = "Using Vector Scattered Rx callback"}, 1, false},
};

static struct port ports[WORKS];
static uint8_t *file;
static uint64_t file_bytes;
static char failure[160];

const char *work_name(unsigned work)
{
	return work < WORKS ? works[work].name : NULL;
}

const char *works_open(void)
{
	for (unsigned i = 0; i < WORKS; i++) {
		ports[i].kind = &works[i].kind;
		ports[i].nic = &slots[i];
		if (rte_eth_dev_get_port_by_name(slot_name(i), &ports[i].id))
			return "the ixgbe driver did not take the paper NIC; stderr says why";
	}
	return NULL;
}

void works_close(void)
{
	for (unsigned i = 0; i < WORKS; i++) {
		port_reset(&ports[i]);
		rte_eth_dev_close(ports[i].id);
	}
}

/* Nobody reads or writes these bytes: only their addresses travel. */
static bool size_file(uint64_t bytes)
{
	if (bytes == file_bytes)
		return true;
	if (file)
		munmap(file, file_bytes);
	file_bytes = bytes;
	file = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (file == MAP_FAILED) {
		file = NULL;
		file_bytes = 0;
	}
	return file != NULL;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Send `frames` frames; what the bursts took is added to `ns`. */
static const char *send_frames(struct paper *nic, struct lane *lane, burst_fn burst, uint64_t frames, uint64_t *ns)
{
	for (uint64_t sent = 0; sent < frames; sent += lane->burst) {
		uint64_t begin = now();
		unsigned went = burst(lane);

		*ns += now() - begin;
		if (went < lane->burst)
			return "the driver took less than a burst although the NIC had sent everything; give a larger ring";
		paper_transmit(nic);
		if (nic->wrong)
			return nic->wrong;
	}
	return NULL;
}

/* Receive `frames` frames. A burst may bring less than was delivered: the vector path takes fours. */
static const char *receive_frames(struct paper *nic, struct lane *lane, burst_fn burst, uint64_t frames, uint64_t *ns)
{
	enum { PATIENCE = 64 };
	uint64_t delivered = 0, got = 0;
	unsigned idle = 0;

	while (got < frames) {
		uint64_t begin;
		unsigned came;

		delivered += paper_receive(nic, smaller(lane->burst, frames - delivered));
		if (nic->wrong)
			return nic->wrong;
		begin = now();
		came = burst(lane);
		*ns += now() - begin;
		got += came;
		idle = came ? 0 : idle + 1;
		if (idle == PATIENCE)
			return "the driver does not see the frames that the NIC received";
	}
	return NULL;
}

static const char *move_frames(unsigned work, struct lane *lane, burst_fn burst, uint64_t frames, uint64_t *ns)
{
	struct paper *nic = ports[work].nic;

	return works[work].kind.receives ? receive_frames(nic, lane, burst, frames, ns)
					 : send_frames(nic, lane, burst, frames, ns);
}

/* Whether the NIC saw what the work is about. */
static const char *judge(unsigned work, const struct request *request, const struct lane *lane,
			 const struct paper_counts *count)
{
	const struct work *w = &works[work];
	uint64_t bytes = w->paged ? HEADER_BYTES + request->payload : PAPER_FRAME_BYTES;

	if (count->frames != request->frames || count->bytes != request->frames * bytes)
		snprintf(failure, sizeof(failure), "the NIC counted %ju frames and %ju bytes, not %ju and %ju",
			 (uintmax_t)count->frames, (uintmax_t)count->bytes, (uintmax_t)request->frames,
			 (uintmax_t)(request->frames * bytes));
	else if (count->descriptors - count->contexts != request->frames * w->segments)
		snprintf(failure, sizeof(failure), "the NIC counted %ju data descriptors, not %u a frame",
			 (uintmax_t)(count->descriptors - count->contexts), w->segments);
	else if (count->offloads != (w->paged ? request->frames : 0))
		snprintf(failure, sizeof(failure), "%ju of %ju frames asked for checksums", (uintmax_t)count->offloads,
			 (uintmax_t)request->frames);
	else if (w->kind.receives && lane->seen != request->frames * PAPER_ETHER_TYPE)
		snprintf(failure, sizeof(failure), "the frames that were received are not those that were sent");
	else
		return NULL;
	return failure;
}

/* The file's bytes outlive every frame: the count never falls to zero, and nothing is freed. */
static void keep(void *bytes, void *opaque)
{
	(void)bytes;
	(void)opaque;
}

static const char *check_request(const struct request *r)
{
	if (r->burst < 4 || r->burst > MAX_BURST || r->burst % 4)
		return "burst must be 4 to 256, a multiple of 4";
	if (r->frames == 0 || r->frames % r->burst)
		return "frames must be a multiple of burst";
	if (r->ring < 64 || r->ring > 4096 || (r->ring & (r->ring - 1)))
		return "ring must be a power of two, 64 to 4096; the vector receive path takes no other";
	if (r->payload == 0 || r->payload > MAX_PAYLOAD)
		return "payload must be 1 to 16384 bytes";
	return size_file((uint64_t)r->cache_mib << 20) ? NULL : "no address space for cache_mib";
}

/* Warm up until frees are due in every burst, then measure. */
static const char *measure(unsigned work, const struct request *request, struct lane *lane, struct result *result)
{
	const struct burst *burst = works[work].burst;
	struct paper *nic = ports[work].nic;
	uint64_t laps = 3 * request->ring / request->burst + 1, ignored = 0;
	const char *error = move_frames(work, lane, burst->untimed, laps * request->burst, &ignored);

	if (error)
		return error;
	nic->count = (struct paper_counts){0};
	lane->seen = 0;
	*result = (struct result){.path = ports[work].path};
	error = move_frames(work, lane, burst->timed, request->frames, &result->ns);
	result->count = nic->count;
	return error ? error : judge(work, request, lane, &result->count);
}

const char *works_run(unsigned work, const struct request *request, struct result *result)
{
	static struct rte_mbuf_ext_shared_info owner = {.free_cb = keep, .refcnt = 1};
	struct port *port = &ports[work];
	const char *error = check_request(request);
	struct lane lane;

	if (error)
		return error;
	error = port_configure(port, request->ring);
	if (!error) {
		lane = (struct lane){
			.port = port->id, .burst = request->burst, .payload = request->payload, .frames = port->frames,
			.payloads = port->payloads, .file = file, .file_bytes = file_bytes, .owner = &owner,
		};
		error = measure(work, request, &lane, result);
	}
	if (error) {
		port_reset(port);
		port->nic->wrong = NULL;
		rte_mbuf_ext_refcnt_set(&owner, 1);
	}
	return error;
}

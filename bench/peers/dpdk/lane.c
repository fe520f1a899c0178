/* See lane.h. Compiled apart, so that a timed body is a call and nothing of it moves out of the timed region. */
#include "lane.h"

#include <stdbool.h>
#include <string.h>

#include <rte_ethdev.h>

#include "paper.h"
#include "works.h"

static const uint8_t header[PAPER_FRAME_BYTES] = {
	0x52, 0x54, 0x00, 0x02, 0x00, 0x02, 0x52, 0x54, 0x00, 0x02, 0x00, 0x01, 0x08, 0x00, 0x45, 0x00,
	0x05, 0xDC, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x00, 0x00, 0x0A, 0x00, 0x00, 0x01, 0x0A, 0x00,
	0x00, 0x02, 0x0F, 0xA0, 0x23, 0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x50, 0x10,
};

/*
 * A burst of buffers as the pool has them. The pool keeps them single, direct and without flags, so a sender that sets
 * the rest itself need not have them reset, which is what rte_pktmbuf_alloc_bulk would add.
 */
static inline __attribute__((always_inline)) bool take(struct rte_mempool *pool, struct rte_mbuf **buffers, unsigned count)
{
	return rte_mempool_get_bulk(pool, (void **)buffers, count) == 0;
}

/* One buffer, written by the sender. */
static inline __attribute__((always_inline)) unsigned small_burst(struct lane *lane)
{
	struct rte_mbuf *frames[MAX_BURST];

	if (!take(lane->frames, frames, lane->burst))
		return 0;
	for (unsigned i = 0; i < lane->burst; i++) {
		rte_pktmbuf_reset_headroom(frames[i]);
		memcpy(rte_pktmbuf_mtod(frames[i], void *), header, PAPER_FRAME_BYTES);
		frames[i]->data_len = frames[i]->pkt_len = PAPER_FRAME_BYTES;
	}
	return rte_eth_tx_burst(lane->port, 0, frames, lane->burst);
}

/* A piece of the file as a segment of its own. The address that DMA uses is the virtual one (--iova-mode=va). */
static inline __attribute__((always_inline)) void attach_page(struct lane *lane, struct rte_mbuf *segment)
{
	uint8_t *bytes = lane->file + lane->at;

	rte_pktmbuf_attach_extbuf(segment, bytes, (uintptr_t)bytes, lane->payload, lane->owner);
	segment->data_len = lane->payload;
	lane->at += lane->payload;
	if (lane->at + lane->payload > lane->file_bytes)
		lane->at = 0;
}

static inline __attribute__((always_inline)) void lay_header(struct lane *lane, struct rte_mbuf *frame)
{
	rte_pktmbuf_reset_headroom(frame);
	memcpy(rte_pktmbuf_mtod(frame, void *), header, HEADER_BYTES);
	frame->data_len = HEADER_BYTES;
	frame->pkt_len = HEADER_BYTES + lane->payload;
	frame->nb_segs = 2;
	frame->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_TCP_CKSUM;
	frame->l2_len = 14;
	frame->l3_len = 20;
	frame->l4_len = 20;
}

/* Header and a piece of a file that is not copied. The owner's count rises once a burst: DPDK's cheapest right way. */
static inline __attribute__((always_inline)) unsigned page_burst(struct lane *lane)
{
	struct rte_mbuf *frames[MAX_BURST], *payloads[MAX_BURST];

	if (!take(lane->frames, frames, lane->burst))
		return 0;
	if (!take(lane->payloads, payloads, lane->burst)) {
		rte_pktmbuf_free_bulk(frames, lane->burst);
		return 0;
	}
	rte_mbuf_ext_refcnt_update(lane->owner, lane->burst);
	for (unsigned i = 0; i < lane->burst; i++) {
		lay_header(lane, frames[i]);
		attach_page(lane, payloads[i]);
		frames[i]->next = payloads[i];
	}
	return rte_eth_tx_burst(lane->port, 0, frames, lane->burst);
}

static inline __attribute__((always_inline)) unsigned look(struct lane *lane, struct rte_mbuf **frames)
{
	unsigned came = rte_eth_rx_burst(lane->port, 0, frames, lane->burst);

	for (unsigned i = 0; i < came; i++)
		lane->seen += *rte_pktmbuf_mtod_offset(frames[i], const uint16_t *, 12);
	return came;
}

/* Freed as any frame may be, chained or shared. */
static inline __attribute__((always_inline)) unsigned receive_burst(struct lane *lane)
{
	struct rte_mbuf *frames[MAX_BURST];
	unsigned came = look(lane, frames);

	rte_pktmbuf_free_bulk(frames, came);
	return came;
}

/* Put back without a look at them, as a program may that knows its frames to be single and its own. */
static inline __attribute__((always_inline)) unsigned raw_receive_burst(struct lane *lane)
{
	struct rte_mbuf *frames[MAX_BURST];
	unsigned came = look(lane, frames);

	rte_mempool_put_bulk(lane->frames, (void **)frames, came);
	return came;
}

#define BURST(name, body)                                                             \
	static __attribute__((noinline)) unsigned timed_##name(struct lane *lane)     \
	{                                                                             \
		return body(lane);                                                    \
	}                                                                             \
	static __attribute__((noinline)) unsigned warm_##name(struct lane *lane)      \
	{                                                                             \
		return body(lane);                                                    \
	}                                                                             \
	const struct burst name = {timed_##name, warm_##name}

BURST(tx_small, small_burst);
BURST(tx_page, page_burst);
BURST(rx_small, receive_burst);
BURST(rx_raw, raw_receive_burst);

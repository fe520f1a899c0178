/*
 * The paper NIC: the registers and descriptors of an 82599 over plain memory.
 *
 * It never runs by itself. Between two timed bursts the program lets it do what the device would have done by then, so
 * that only the driver is timed, on one core, and every run is the same. It reads descriptors and nothing that they
 * point at on transmit; on receive it writes the frame into the buffer, as DMA would.
 */
#ifndef PAPER_H
#define PAPER_H

#include <stdbool.h>
#include <stdint.h>

enum {
	PAPER_BAR_BYTES = 128 * 1024, /* the registers; the rest of a real BAR is flash */
	PAPER_CONTEXTS = 2,           /* context slots of a queue (82599 datasheet 7.2.3.3) */
	PAPER_FRAME_BYTES = 60,       /* received frame, without FCS */
	PAPER_ETHER_TYPE = 0x0008,    /* IPv4, as a little-endian load of bytes 12 and 13 sees it */
};

/* What the device saw. */
struct paper_counts {
	uint64_t frames;
	uint64_t bytes;       /* of frames, without FCS */
	uint64_t descriptors; /* read (transmit) or written back (receive) */
	uint64_t contexts;    /* of these: context descriptors */
	uint64_t offloads;    /* frames that asked for IPv4 and TCP checksums */
	uint64_t reports;     /* RS bits seen (transmit) or descriptors written back (receive) */
	uint64_t doorbells;   /* times the tail had moved when the device looked */
};

struct paper_context {
	bool valid;
	uint32_t lengths; /* MACLEN and IPLEN */
	uint32_t command; /* TUCMD */
};

struct paper {
	uint8_t *bar; /* PAPER_BAR_BYTES of zeroed memory */
	uint32_t tail; /* as last seen */
	struct paper_context contexts[PAPER_CONTEXTS];
	bool in_frame;
	uint32_t promised; /* PAYLEN of the frame that is being read */
	uint32_t gathered; /* lengths of its descriptors so far */
	struct paper_counts count;
	const char *wrong; /* the first rule that the driver broke, or NULL */
};

/* Power on. False when there is no memory. */
bool paper_create(struct paper *nic);

/* Do what a write to a control register starts: end a reset, read a word of EEPROM, finish MDIO. */
void paper_settle(struct paper *nic);

/* Send everything between head and tail of transmit queue 0. Stops at a rule that the driver broke. */
void paper_transmit(struct paper *nic);

/* Receive up to `frames` frames into queue 0, as its descriptors allow. Returns how many. */
unsigned paper_receive(struct paper *nic, unsigned frames);

#endif

/* The paper NIC. Facts are from the 82599 datasheet and the public drivers; see paper.h. */
#include "paper.h"

#include <string.h>
#include <sys/mman.h>

enum {
	CTRL = 0x00000,
	STATUS = 0x00008,
	MSCA = 0x0425C,
	LINKS = 0x042A4,
	AUTOC = 0x042A0,
	ANLP1 = 0x042B0,
	RDRXCTL = 0x02F00,
	RAL0 = 0x05400,
	RAH0 = 0x05404,
	SECTXSTAT = 0x08804,
	SECRXSTAT = 0x08D04,
	EEC = 0x10010,
	EERD = 0x10014,
	RX_QUEUE = 0x01000, /* base, length, head and tail of queue 0 */
	TX_QUEUE = 0x06000,
	BASE_LOW = 0x00,
	BASE_HIGH = 0x04,
	LENGTH = 0x08,
	HEAD = 0x10,
	TAIL = 0x18,
};

#define CTRL_PRIMARY_DISABLE (1u << 2)
#define CTRL_RESET (1u << 26 | 1u << 3) /* RST and LNK_RST */
#define STATUS_PRIMARY_ENABLED (1u << 19)
#define MSCA_COMMAND (1u << 30)
#define EERD_START (1u << 0)
#define EERD_DONE (1u << 1)

#define DCMD_EOP (1u << 24)
#define DCMD_RS (1u << 27)
#define DCMD_DEXT (1u << 29)
#define DCMD_TSE (1u << 31)
#define POPTS_BOTH (3u << 8) /* IXSM and TXSM */
#define TX_DD (1u << 0)
#define TUCMD_IPV4 (1u << 10)
#define TUCMD_TCP (1u << 11)

#define RX_IPV4_TCP (1u << 4 | 1u << 8)         /* packet type */
#define RX_DONE (1u << 0 | 1u << 1)             /* DD and EOP */
#define RX_SUMS_GOOD (1u << 5 | 1u << 6)        /* L4CS and IPCS, and neither error */

/* A descriptor of either kind, as four little-endian words. */
struct descriptor {
	uint32_t word[4];
};

static uint32_t get(const struct paper *nic, uint32_t at)
{
	return *(volatile uint32_t *)(nic->bar + at);
}

static void set(struct paper *nic, uint32_t at, uint32_t value)
{
	*(volatile uint32_t *)(nic->bar + at) = value;
}

/* Registers as the EEPROM leaves them: a backplane part (10f7) with its link up, which needs no SFP module. */
static void power_on(struct paper *nic)
{
	memset(nic->bar, 0, PAPER_BAR_BYTES);
	set(nic, STATUS, STATUS_PRIMARY_ENABLED);
	set(nic, AUTOC, 4u << 13 | 1u << 31);
	set(nic, ANLP1, 1u << 16);
	set(nic, LINKS, 0xF0000000);
	set(nic, EEC, 0x3300);
	set(nic, RDRXCTL, 1u << 3);
	set(nic, SECTXSTAT, 1);
	set(nic, SECRXSTAT, 1);
	set(nic, RAL0, 0x02005452);
	set(nic, RAH0, 1u << 31 | 0x0100);
	nic->tail = 0;
	nic->in_frame = false;
	memset(nic->contexts, 0, sizeof(nic->contexts));
}

bool paper_create(struct paper *nic)
{
	void *bar = mmap(NULL, PAPER_BAR_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (bar == MAP_FAILED)
		return false;
	*nic = (struct paper){.bar = bar};
	power_on(nic);
	return true;
}

void paper_settle(struct paper *nic)
{
	uint32_t read = get(nic, EERD);
	uint32_t control = get(nic, CTRL);

	if (control & CTRL_RESET) {
		power_on(nic);
		control = 0;
	}
	set(nic, STATUS, control & CTRL_PRIMARY_DISABLE ? 0 : STATUS_PRIMARY_ENABLED);
	set(nic, MSCA, get(nic, MSCA) & ~MSCA_COMMAND);
	if (read & EERD_START) /* an EEPROM of zeros, whose checksum is then the whole sum */
		set(nic, EERD, (read >> 2 == 0x3F ? 0xBABAu << 16 : 0) | EERD_DONE);
}

static struct descriptor *ring_of(const struct paper *nic, uint32_t queue)
{
	return (struct descriptor *)(uintptr_t)((uint64_t)get(nic, queue + BASE_HIGH) << 32 | get(nic, queue + BASE_LOW));
}

/* The tail, counted as a doorbell when it has moved. */
static uint32_t look_at_tail(struct paper *nic, uint32_t queue, uint32_t size)
{
	uint32_t tail = get(nic, queue + TAIL);

	if (tail >= size) {
		nic->wrong = "a tail beyond its ring";
		return get(nic, queue + HEAD);
	}
	nic->count.doorbells += tail != nic->tail;
	nic->tail = tail;
	return tail;
}

static const char *read_context(struct paper *nic, const struct descriptor *d)
{
	uint32_t slot = d->word[3] >> 4 & 7;

	if (nic->in_frame)
		return "a context descriptor inside a frame";
	if (slot >= PAPER_CONTEXTS)
		return "a context slot that the queue does not have";
	nic->contexts[slot] = (struct paper_context){true, d->word[0], d->word[2]};
	nic->count.contexts++;
	return NULL;
}

/* Whether the checksums that a frame asks for could be computed. */
static const char *check_offload(const struct paper *nic, const struct descriptor *d)
{
	const struct paper_context *context = &nic->contexts[d->word[3] >> 4 & (PAPER_CONTEXTS - 1)];

	if (!context->valid)
		return "checksums asked for without a context";
	if ((context->lengths & 0x1FF) != 20 || (context->lengths >> 9 & 0x7F) != 14)
		return "a context whose header lengths are not Ethernet's and IPv4's";
	if (!(context->command & TUCMD_IPV4) || !(context->command & TUCMD_TCP))
		return "a context that is not of TCP over IPv4";
	return NULL;
}

static const char *begin_frame(struct paper *nic, const struct descriptor *d)
{
	uint32_t offload = d->word[3] & POPTS_BOTH;

	nic->in_frame = true;
	nic->promised = d->word[3] >> 14;
	nic->gathered = 0;
	if (d->word[2] & DCMD_TSE)
		return "segmentation asked for";
	if (offload == 0)
		return NULL;
	if (offload != POPTS_BOTH)
		return "one of the two checksums asked for, not both";
	nic->count.offloads++;
	return check_offload(nic, d);
}

static const char *read_data(struct paper *nic, const struct descriptor *d)
{
	const char *wrong = nic->in_frame ? NULL : begin_frame(nic, d);
	uint32_t length = d->word[2] & 0xFFFF;

	if (wrong)
		return wrong;
	if ((d->word[0] | d->word[1]) == 0 || length == 0)
		return "a buffer without address or length";
	nic->gathered += length;
	if (!(d->word[2] & DCMD_EOP))
		return NULL;
	if (nic->gathered != nic->promised)
		return "PAYLEN is not the sum of the frame's buffers";
	nic->in_frame = false;
	nic->count.frames++;
	nic->count.bytes += nic->gathered;
	return NULL;
}

static const char *read_descriptor(struct paper *nic, const struct descriptor *d)
{
	if (!(d->word[2] & DCMD_DEXT))
		return "a legacy descriptor";
	switch (d->word[2] >> 20 & 0xF) {
	case 2:
		return read_context(nic, d);
	case 3:
		return read_data(nic, d);
	default:
		return "a descriptor of an unknown type";
	}
}

void paper_transmit(struct paper *nic)
{
	struct descriptor *ring = ring_of(nic, TX_QUEUE);
	uint32_t size = get(nic, TX_QUEUE + LENGTH) / sizeof(*ring);
	uint32_t head = get(nic, TX_QUEUE + HEAD);
	uint32_t tail = look_at_tail(nic, TX_QUEUE, size);

	for (; head != tail && !nic->wrong; head = head + 1 == size ? 0 : head + 1) {
		struct descriptor *d = &ring[head];

		nic->wrong = read_descriptor(nic, d);
		nic->count.descriptors++;
		if (d->word[2] & DCMD_RS) {
			nic->count.reports++;
			d->word[3] |= TX_DD;
		}
	}
	set(nic, TX_QUEUE + HEAD, head);
}

/* TCP over IPv4 on Ethernet, padded; the addresses are nobody's. */
static const uint8_t received[PAPER_FRAME_BYTES] = {
	0x52, 0x54, 0x00, 0x02, 0x00, 0x01, 0x52, 0x54, 0x00, 0x02, 0x00, 0x02, 0x08, 0x00, 0x45, 0x00,
	0x00, 0x28, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x00, 0x00, 0x0A, 0x00, 0x00, 0x02, 0x0A, 0x00,
	0x00, 0x01, 0x23, 0x28, 0x0F, 0xA0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x50, 0x10,
};

static void write_back(struct descriptor *d)
{
	void *buffer = (void *)(uintptr_t)((uint64_t)d->word[1] << 32 | d->word[0]);

	memcpy(buffer, received, sizeof(received));
	*d = (struct descriptor){{RX_IPV4_TCP, 0, RX_DONE | RX_SUMS_GOOD, sizeof(received)}};
}

unsigned paper_receive(struct paper *nic, unsigned frames)
{
	struct descriptor *ring = ring_of(nic, RX_QUEUE);
	uint32_t size = get(nic, RX_QUEUE + LENGTH) / sizeof(*ring);
	uint32_t head = get(nic, RX_QUEUE + HEAD);
	uint32_t tail = look_at_tail(nic, RX_QUEUE, size);
	unsigned done = 0;

	for (; head != tail && done < frames; head = head + 1 == size ? 0 : head + 1, done++) {
		if ((ring[head].word[0] | ring[head].word[1]) == 0) {
			nic->wrong = "a receive descriptor without a buffer";
			break;
		}
		write_back(&ring[head]);
	}
	set(nic, RX_QUEUE + HEAD, head);
	nic->count.frames += done;
	nic->count.bytes += (uint64_t)done * sizeof(received);
	nic->count.descriptors += done;
	nic->count.reports += done;
	return done;
}

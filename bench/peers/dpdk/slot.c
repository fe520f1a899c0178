/* See slot.h. The linker's --wrap (link.args) sends the library's own calls to the __wrap_ functions below. */
#include "slot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_bus_pci.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_interrupts.h>

struct paper slots[SLOTS];

static char tree[64]; /* stands for /sys/bus/pci/devices */

/* What a slot's directory says. 10f7 is the backplane part, whose driver looks for no SFP module. */
static const struct {
	const char *name, *text;
} files[] = {
	{"vendor", "0x8086"}, {"device", "0x10f7"}, {"subsystem_vendor", "0x8086"}, {"subsystem_device", "0x0000"},
	{"class", "0x020000"}, {"numa_node", "0"},
};

const char *slot_name(unsigned slot)
{
	static char name[16];

	snprintf(name, sizeof(name), "0000:01:%02x.0", slot);
	return name;
}

/* Where the BAR would be in physical memory: only a mark by which map_device() knows the slot again. */
static uint64_t mark_of(unsigned slot)
{
	return 0x5717000000000000 + (uint64_t)slot * PAPER_BAR_BYTES;
}

static bool write_file(const char *directory, const char *name, const char *text)
{
	char path[128];
	FILE *file;
	bool good;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "w");
	if (!file)
		return false;
	good = fprintf(file, "%s\n", text) > 0;
	return fclose(file) == 0 && good;
}

/* One line a BAR: first and last address, and what it is (0x200: memory). */
static bool write_resource(const char *directory, unsigned slot)
{
	char text[512];
	int at = snprintf(text, sizeof(text), "0x%016jx 0x%016jx 0x0000000000000200", (uintmax_t)mark_of(slot),
			  (uintmax_t)mark_of(slot) + PAPER_BAR_BYTES - 1);

	for (int bar = 1; bar < 6; bar++)
		at += snprintf(text + at, sizeof(text) - at, "\n0x%016x 0x%016x 0x%016x", 0, 0, 0);
	return write_file(directory, "resource", text);
}

static bool plug(unsigned slot)
{
	char directory[96], link[112];

	snprintf(directory, sizeof(directory), "%s/%s", tree, slot_name(slot));
	if (!paper_create(&slots[slot]) || mkdir(directory, 0700) != 0)
		return false;
	for (unsigned i = 0; i < RTE_DIM(files); i++)
		if (!write_file(directory, files[i].name, files[i].text))
			return false;
	/* A device without a kernel driver would be passed over; it need not exist. */
	snprintf(link, sizeof(link), "%s/driver", directory);
	return symlink("../paper", link) == 0 && write_resource(directory, slot);
}

static void settle_all(unsigned int microseconds)
{
	(void)microseconds;
	for (unsigned slot = 0; slot < SLOTS; slot++)
		paper_settle(&slots[slot]);
}

bool slots_plug(void)
{
	const char *parent = getenv("TMPDIR");

	snprintf(tree, sizeof(tree), "%.40s/paper-XXXXXX", parent ? parent : "/tmp");
	if (!mkdtemp(tree)) {
		tree[0] = '\0';
		return false;
	}
	for (unsigned slot = 0; slot < SLOTS; slot++)
		if (!plug(slot))
			return false;
	rte_delay_us_callback_register(settle_all);
	return setenv("SYSFS_PCI_DEVICES", tree, 1) == 0;
}

void slots_forget(void)
{
	char path[128];

	if (!tree[0])
		return;
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		for (unsigned i = 0; i < RTE_DIM(files); i++) {
			snprintf(path, sizeof(path), "%s/%s/%s", tree, slot_name(slot), files[i].name);
			unlink(path);
		}
		snprintf(path, sizeof(path), "%s/%s/driver", tree, slot_name(slot));
		unlink(path);
		snprintf(path, sizeof(path), "%s/%s/resource", tree, slot_name(slot));
		unlink(path);
		snprintf(path, sizeof(path), "%s/%s", tree, slot_name(slot));
		rmdir(path);
	}
	rmdir(tree);
	tree[0] = '\0';
}

/*
 * Debian installs no header that says what struct rte_pci_device is. Its resources are recognized by the first one's
 * address and length, as `resource` gave them; the interrupt handle follows the six of them.
 */
static struct rte_mem_resource *resources_of(struct rte_pci_device *device, unsigned *slot)
{
	enum { SEARCHED = 512 };
	char *bytes = (char *)device;

	for (unsigned at = 0; at < SEARCHED; at += sizeof(uint64_t)) {
		struct rte_mem_resource *first = (struct rte_mem_resource *)(bytes + at);

		for (*slot = 0; *slot < SLOTS; ++*slot)
			if (first->phys_addr == mark_of(*slot) && first->len == PAPER_BAR_BYTES)
				return first;
	}
	return NULL;
}

/* Puts the slot's registers where the BAR would be mapped, and an interrupt that never comes. */
int __wrap_rte_pci_map_device(struct rte_pci_device *device)
{
	unsigned slot;
	struct rte_mem_resource *resources = resources_of(device, &slot);
	struct rte_intr_handle *interrupt;

	if (!resources)
		return -1;
	resources[0].addr = slots[slot].bar;
	memcpy(&interrupt, &resources[6], sizeof(interrupt));
	return rte_intr_fd_set(interrupt, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) ||
	       rte_intr_type_set(interrupt, RTE_INTR_HANDLE_EXT);
}

void __wrap_rte_pci_unmap_device(struct rte_pci_device *device)
{
	(void)device;
}

void __wrap_rte_delay_us_sleep(unsigned int microseconds)
{
	settle_all(microseconds);
}

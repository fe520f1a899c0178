/*
 * The slots that paper NICs sit in: what DPDK's PCI bus finds in place of /sys/bus/pci/devices, and what it maps in
 * place of a BAR. Nothing else of DPDK is replaced, except that its drivers' waits settle the paper NICs, which have
 * no clock.
 */
#ifndef SLOT_H
#define SLOT_H

#include <stdbool.h>

#include "paper.h"

enum { SLOTS = 6 };

extern struct paper slots[SLOTS];

/* Power the NICs on and name them to DPDK; before rte_eal_init(). False with errno set when that failed. */
bool slots_plug(void);

/* Remove the files of slots_plug(); DPDK has read them once rte_eal_init() is back. */
void slots_forget(void);

/* DPDK's name of a slot. */
const char *slot_name(unsigned slot);

#endif

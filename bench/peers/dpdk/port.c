/* See port.h. */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>

enum {
	POOL_CACHE = 256, /* objects a core keeps; above any burst, so the pool's shared ring is not touched */
	POOL_SPARE = 2 * POOL_CACHE + 512, /* what the cache and bursts hold beside a full ring */
	THRESHOLD = 32,   /* of write-backs and of frees; the vector path wants 32 or more, and 32 fits every ring */
	DRIVER_LOG_DEFAULT = RTE_LOG_NOTICE,
};

static const char driver_log[] = "pmd.net.ixgbe.init";

/* A new pool for every ring size: one that is larger than the ring needs would be colder than it has to be. */
static const char *make_pools(struct port *port, uint16_t ring)
{
	static unsigned generation;
	char name[32];

	generation++;
	snprintf(name, sizeof(name), "frames-%u", generation);
	port->frames = rte_pktmbuf_pool_create(name, ring + POOL_SPARE, POOL_CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
	snprintf(name, sizeof(name), "payloads-%u", generation);
	port->payloads = rte_pktmbuf_pool_create(name, ring + POOL_SPARE, POOL_CACHE, 0, 0, 0);
	return port->frames && port->payloads ? NULL : "no memory for buffers; as root: echo 64 > /proc/sys/vm/nr_hugepages";
}

static const char *set_up_queues(struct port *port, uint16_t ring)
{
	struct rte_eth_conf conf = {
		.rxmode = {.offloads = port->kind->rx_offloads},
		.txmode = {.offloads = port->kind->tx_offloads},
	};
	struct rte_eth_rxconf rx;
	struct rte_eth_txconf tx;
	struct rte_eth_dev_info info;
	bool receives = port->kind->receives;

	if (rte_eth_dev_info_get(port->id, &info) || rte_eth_dev_configure(port->id, receives, !receives, &conf))
		return "rte_eth_dev_configure failed; stderr says why";
	rx = info.default_rxconf;
	rx.offloads = conf.rxmode.offloads;
	rx.rx_free_thresh = THRESHOLD;
	tx = info.default_txconf;
	tx.offloads = conf.txmode.offloads;
	tx.tx_rs_thresh = tx.tx_free_thresh = THRESHOLD;
	if (receives && rte_eth_rx_queue_setup(port->id, 0, ring, 0, &rx, port->frames))
		return "rte_eth_rx_queue_setup failed; stderr says why";
	if (!receives && rte_eth_tx_queue_setup(port->id, 0, ring, 0, &tx))
		return "rte_eth_tx_queue_setup failed; stderr says why";
	return rte_eth_dev_start(port->id) ? "rte_eth_dev_start failed; stderr says why" : NULL;
}

/*
 * The driver has no burst_mode_get of its own in this version; its log is where it says which burst function it took.
 * Keeps the text of the line with the wanted words.
 */
static bool said(struct port *port, const char *log)
{
	const char *found = strstr(log, port->kind->path);

	snprintf(port->path, sizeof(port->path), "%.*s", found ? (int)strcspn(found, "\n") : 0, found ? found : "");
	return found != NULL;
}

/* Run set_up_queues() with the driver's log at debug level in `log`, and its errors on stderr all the same. */
static const char *set_up_listening(struct port *port, uint16_t ring)
{
	char *log = NULL;
	size_t bytes = 0;
	FILE *stream = open_memstream(&log, &bytes);
	const char *error;

	if (!stream)
		return "no memory for the driver's log";
	rte_openlog_stream(stream);
	rte_log_set_global_level(RTE_LOG_DEBUG);
	rte_log_set_level_pattern(driver_log, RTE_LOG_DEBUG);
	error = set_up_queues(port, ring);
	rte_log_set_level_pattern(driver_log, DRIVER_LOG_DEFAULT);
	rte_openlog_stream(NULL);
	fclose(stream);
	if (!said(port, log) && !error)
		error = "the driver took another path than the one that is meant; stderr says which";
	if (error)
		fputs(log, stderr);
	free(log);
	return error;
}

void port_reset(struct port *port)
{
	/* Fails on a port that never started, which is as good. What the rings hold goes back to the pools. */
	(void)rte_eth_dev_stop(port->id);
	rte_mempool_free(port->frames);
	rte_mempool_free(port->payloads);
	port->frames = port->payloads = NULL;
	port->ring = 0;
}

const char *port_configure(struct port *port, uint16_t ring)
{
	const char *error;

	if (port->ring == ring)
		return NULL;
	port_reset(port);
	error = make_pools(port, ring);
	if (!error)
		error = set_up_listening(port, ring);
	if (!error)
		port->ring = ring;
	return error;
}

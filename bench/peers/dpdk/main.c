/*
 * DPDK's ixgbe driver as a contestant of `cargo xtask race`. One JSON line when ready; then for each line
 *	run WORK key=value ...
 * one JSON line; the end of input ends it. All else goes to stderr.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_version.h>

#include "slot.h"
#include "works.h"

#define SMALL_PAGES_MIB "128"

enum { PAGES_NEEDED = 40 }; /* of 2 MiB: 30 at ring=512; 56 at ring=4096, whose run says so if they lack */

static FILE *answers;

/* Answers keep the real stdout; whatever the libraries print there goes to stderr. */
static bool divert_stdout(void)
{
	int fd = dup(STDOUT_FILENO);

	answers = fd < 0 ? NULL : fdopen(fd, "w");
	return answers && dup2(STDERR_FILENO, STDOUT_FILENO) >= 0;
}

/* One line {"key":"text"}. */
static void say(const char *key, const char *text)
{
	fprintf(answers, "{\"%s\":\"", key);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', answers);
		fputc((unsigned char)*text < ' ' ? ' ' : *text, answers);
	}
	fputs("\"}\n", answers);
	fflush(answers);
}

static long free_huge_pages(void)
{
	FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r");
	long pages = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%ld", &pages) != 1)
		pages = 0;
	fclose(file);
	return pages;
}

/* The first processor that we were given, which a plain `-l 0` would ignore. */
static int first_cpu(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &set))
				return cpu;
	return 0;
}

static bool start_dpdk(bool small_pages)
{
	char cores[32];
	char *arguments[8] = {"dpdk", cores, "--iova-mode=va", "--no-telemetry"};
	int count = 4;

	snprintf(cores, sizeof(cores), "--lcores=0@%d", first_cpu());
	if (small_pages) {
		arguments[count++] = "--no-huge";
		arguments[count++] = "--no-shconf";
		arguments[count++] = "-m" SMALL_PAGES_MIB;
	} else {
		arguments[count++] = "--in-memory";
	}
	return rte_eal_init(count, arguments) >= 0;
}

static void say_ready(bool small_pages)
{
	fprintf(answers, "{\"ready\":\"dpdk %s, static%s\",\"works\":[", rte_version() + strlen("DPDK "),
		small_pages ? ", 4 KiB pages: for counting instructions, not for time" : "");
	for (unsigned i = 0; work_name(i); i++)
		fprintf(answers, "%s\"%s\"", i ? "," : "", work_name(i));
	fputs("]}\n", answers);
	fflush(answers);
}

/* Keys that concern others are no mistake: every contestant is sent the same line. */
static void set_key(struct request *request, const char *word)
{
	unsigned long long value;
	char key[16];

	if (sscanf(word, "%15[a-z_]=%llu", key, &value) != 2)
		return;
	if (!strcmp(key, "ring"))
		request->ring = value;
	else if (!strcmp(key, "frames"))
		request->frames = value;
	else if (!strcmp(key, "burst"))
		request->burst = value;
	else if (!strcmp(key, "cache_mib"))
		request->cache_mib = value;
	else if (!strcmp(key, "payload"))
		request->payload = value;
}

static void say_result(unsigned work, const struct result *r)
{
	const struct paper_counts *c = &r->count;

	fprintf(answers,
		"{\"work\":\"%s\",\"ns\":%ju,\"frames\":%ju,\"bytes\":%ju,\"descriptors\":%ju,\"contexts\":%ju,"
		"\"reports\":%ju,\"doorbells\":%ju,\"path\":\"%s\"}\n",
		work_name(work), (uintmax_t)r->ns, (uintmax_t)c->frames, (uintmax_t)c->bytes,
		(uintmax_t)c->descriptors, (uintmax_t)c->contexts, (uintmax_t)c->reports, (uintmax_t)c->doorbells,
		r->path);
	fflush(answers);
}

static void answer(char *line)
{
	struct request request = {.ring = 512, .frames = 16384, .burst = 32, .cache_mib = 64, .payload = 1460};
	char *rest, *verb = strtok_r(line, " \n", &rest), *name = strtok_r(NULL, " \n", &rest), *word;
	struct result result;
	const char *error;
	unsigned work = 0;

	if (!verb || strcmp(verb, "run") || !name) {
		say("error", "not understood; say: run WORK key=value ...");
		return;
	}
	while (work_name(work) && strcmp(work_name(work), name))
		work++;
	while ((word = strtok_r(NULL, " \n", &rest)))
		set_key(&request, word);
	error = work_name(work) ? works_run(work, &request, &result) : "no such work here";
	if (error)
		say("error", error);
	else
		say_result(work, &result);
}

/* NULL, or why nothing can be run here. */
static const char *start(bool small_pages)
{
	static char text[160];
	long free = free_huge_pages();
	bool started;

	if (!small_pages && free < PAGES_NEEDED) {
		snprintf(text, sizeof(text), "%ld huge pages are free, DPDK needs %d; as root: "
			 "echo %d > /proc/sys/vm/nr_hugepages", free, PAGES_NEEDED, PAGES_NEEDED);
		return text;
	}
	atexit(slots_forget);
	if (!slots_plug())
		return "no room for a small directory of files; set TMPDIR";
	started = start_dpdk(small_pages);
	slots_forget();
	return started ? works_open() : "rte_eal_init failed; stderr says why";
}

int main(int argc, char **argv)
{
	/* Under valgrind, which has no room for the address space that DPDK keeps for huge pages. */
	bool small_pages = argc > 1 && !strcmp(argv[1], "--small-pages");
	char line[512];
	const char *reason;

	if (!divert_stdout())
		return 1;
	reason = start(small_pages);
	if (reason) {
		say("skip", reason);
		return 0;
	}
	say_ready(small_pages);
	while (fgets(line, sizeof(line), stdin))
		answer(line);
	works_close();
	rte_eal_cleanup();
	return 0;
}

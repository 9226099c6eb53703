/*
 * Loaded into a redis-server (LD_PRELOAD), this moves its wall clock, and cuts it off from other nodes of its cluster.
 * What it is to do stands in a file that both sides map, so that it can be changed while the server runs.
 *
 * A connection that is cut fails at once, in both directions and also when it is dialed, rather than going dead: a server
 * whose reads find nothing while epoll says that there is something would spin.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The same in clock.go. */
struct control {
	int64_t offset; /* ns that the wall clock is ahead */
	uint32_t cut;   /* BUS, REPLICATION */
	uint32_t loaded;
};

enum { BUS = 1, REPLICATION = 2 };

static struct control none;
static struct control *control = &none;
static int bus_from, bus_to; /* the ports of the bus: what is dialed elsewhere is a master */

#define FDS 65536
static unsigned char kinds[FDS];

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_connect)(int, const struct sockaddr *, socklen_t);
static int (*real_accept)(int, struct sockaddr *, socklen_t *);
static int (*real_accept4)(int, struct sockaddr *, socklen_t *, int);
static int (*real_close)(int);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);

/* What is called before the constructors of other libraries have run needs it as well. */
#define REAL(name) \
	do { \
		if (!real_##name) \
			real_##name = dlsym(RTLD_NEXT, #name); \
	} while (0)

static int port_in(const char *name)
{
	const char *value = getenv(name);
	return value ? atoi(value) : 0;
}

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("FAULTS_CONTROL");
	int fd;
	void *mapped;

	if (!path)
		return;
	bus_from = port_in("FAULTS_BUS_FROM");
	bus_to = port_in("FAULTS_BUS_TO");
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (mapped == MAP_FAILED)
		return;
	control = mapped;
	__atomic_store_n(&control->loaded, 1, __ATOMIC_SEQ_CST);
}

int clock_gettime(clockid_t id, struct timespec *at)
{
	int64_t ns;
	int result;

	REAL(clock_gettime);
	result = real_clock_gettime(id, at);
	if (result != 0 || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
		return result;
	ns = (int64_t)at->tv_sec * 1000000000 + at->tv_nsec + __atomic_load_n(&control->offset, __ATOMIC_RELAXED);
	at->tv_sec = ns / 1000000000;
	at->tv_nsec = ns % 1000000000;
	return 0;
}

int gettimeofday(struct timeval *at, void *zone)
{
	struct timespec now;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *at)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return (time_t)-1;
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}

static int port_of(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
		return ntohs(((const struct sockaddr_in *)addr)->sin_port);
	if (addr->sa_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)addr)->sin6_port);
	return 0;
}

static int is_bus(int port) { return port >= bus_from && port < bus_to; }

static void mark(int fd, int kind)
{
	if (fd >= 0 && fd < FDS)
		kinds[fd] = kind;
}

static int is_cut(int fd)
{
	return fd >= 0 && fd < FDS && (kinds[fd] & __atomic_load_n(&control->cut, __ATOMIC_RELAXED));
}

int connect(int fd, const struct sockaddr *addr, socklen_t size)
{
	int port = port_of(addr);

	REAL(connect);
	if (port)
		mark(fd, is_bus(port) ? BUS : REPLICATION);
	if (is_cut(fd)) {
		errno = ECONNREFUSED;
		return -1;
	}
	return real_connect(fd, addr, size);
}

static int accepted(int listener, int fd)
{
	struct sockaddr_storage addr;
	socklen_t size = sizeof addr;

	if (fd >= 0 && getsockname(listener, (struct sockaddr *)&addr, &size) == 0 &&
	    is_bus(port_of((struct sockaddr *)&addr)))
		mark(fd, BUS);
	return fd;
}

int accept(int fd, struct sockaddr *addr, socklen_t *size)
{
	REAL(accept);
	return accepted(fd, real_accept(fd, addr, size));
}

int accept4(int fd, struct sockaddr *addr, socklen_t *size, int flags)
{
	REAL(accept4);
	return accepted(fd, real_accept4(fd, addr, size, flags));
}

int close(int fd)
{
	REAL(close);
	mark(fd, 0);
	return real_close(fd);
}

ssize_t read(int fd, void *to, size_t size)
{
	REAL(read);
	if (is_cut(fd)) {
		errno = ECONNRESET;
		return -1;
	}
	return real_read(fd, to, size);
}

ssize_t write(int fd, const void *from, size_t size)
{
	REAL(write);
	if (is_cut(fd)) {
		errno = EPIPE;
		return -1;
	}
	return real_write(fd, from, size);
}

ssize_t writev(int fd, const struct iovec *from, int count)
{
	REAL(writev);
	if (is_cut(fd)) {
		errno = EPIPE;
		return -1;
	}
	return real_writev(fd, from, count);
}

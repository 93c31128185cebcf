/* Reaching anything outside the sandbox. Listeners that must not be reached are facts. */
#define _GNU_SOURCE
#include "attack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WAIT_MS 700
#define NO_WAY ENETUNREACH, EHOSTUNREACH, ENETDOWN, ECONNREFUSED, EADDRNOTAVAIL, EAFNOSUPPORT

/* Tries to connect within WAIT_MS. Silence is no refusal, because packets may have left. */
static void cannot_connect(const char *host, int port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    bool is_v6 = strchr(host, ':') != NULL;
    char what[128];
    int error = 0;
    socklen_t size = sizeof error;
    snprintf(what, sizeof what, "connect to %s, port %d", host, port);
    inet_pton(is_v6 ? AF_INET6 : AF_INET, host,
              is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        REFUSED(what, fd, NO_WAY);
        return;
    }
    int result = connect(fd, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
                         is_v6 ? sizeof v6 : sizeof v4);
    if (result < 0 && errno == EINPROGRESS) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (poll(&ready, 1, WAIT_MS) == 0) {
            escaped("%s: packets leave, without an answer", what);
            close(fd);
            return;
        }
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        result = error ? -1 : 0;
        errno = error;
    }
    error = errno;
    close(fd);
    errno = error;
    REFUSED(what, result, NO_WAY);
}

static void cannot_send(const char *host, int port, const void *data, size_t length)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char what[128];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(what, sizeof what, "send to %s, port %d", host, port);
    if (fd < 0 || inet_pton(AF_INET, host, &to.sin_addr) != 1) {
        REFUSED(what, fd < 0 ? fd : 0, NO_WAY);
        return;
    }
    long sent = sendto(fd, data, length, 0, (struct sockaddr *)&to, sizeof to);
    close_keeping_errno(fd);
    REFUSED(what, sent, NO_WAY);
}

static void interfaces(void)
{
    struct if_nameindex *all = if_nameindex();
    int found = 0, strange = 0;
    DIR *folder = opendir("/sys/class/net");
    struct dirent *entry;
    for (struct if_nameindex *each = all; each && each->if_index; each++, found++)
        if (strcmp(each->if_name, "lo") != 0) {
            strange++;
            escaped("network interface %s", each->if_name);
        }
    while (folder && (entry = readdir(folder)))
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, "lo") != 0) {
            strange++;
            escaped("/sys/class/net has %s", entry->d_name);
        }
    if (folder)
        closedir(folder);
    if (!found && !folder)
        untried("interfaces: nothing lists them");
    else if (!strange)
        held("interfaces: none but lo");
}

static void public_tcp(void)
{
    cannot_connect("1.1.1.1", 443);
    cannot_connect("8.8.8.8", 53);
    cannot_connect("2606:4700:4700::1111", 443);
}

static void public_udp(void)
{
    cannot_send("1.1.1.1", 53, "x", 1);
    cannot_send("8.8.8.8", 123, "x", 1);
    cannot_send("255.255.255.255", 67, "x", 1);
    cannot_send("224.0.0.251", 5353, "x", 1);
}

/* Asks for the address of example.com. Any answer is a way out. */
static void cannot_resolve(const char *resolver)
{
    static const unsigned char QUESTION[] =
        "\x12\x34\x01\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1";
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
    char what[128], answer[512];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(what, sizeof what, "ask %s for a name's address", resolver);
    if (fd < 0 || inet_pton(AF_INET, resolver, &to.sin_addr) != 1) {
        if (fd < 0)
            REFUSED(what, fd, NO_WAY);
        else
            close(fd);
        return;
    }
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    long result = connect(fd, (struct sockaddr *)&to, sizeof to);
    if (result == 0)
        result = send(fd, QUESTION, sizeof QUESTION - 1, 0);
    if (result >= 0 && poll(&ready, 1, WAIT_MS) == 0) {
        held("%s: no answer", what);
    } else {
        if (result >= 0)
            result = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
        REFUSED(what, result, NO_WAY);
    }
    close(fd);
}

/* All possible resolvers: Docker's own, the host's, and those of resolv.conf. */
static void dns(void)
{
    char text[4096], resolver[64];
    size_t at = 0;
    const char *next;
    cannot_resolve("127.0.0.11");
    cannot_resolve("8.8.8.8");
    while ((next = next_fact("resolver", &at))) {
        snprintf(resolver, sizeof resolver, "%s", next);
        cannot_resolve(resolver);
    }
    read_file("/etc/resolv.conf", text, sizeof text);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (sscanf(line, "nameserver %63s", resolver) == 1)
            cannot_resolve(resolver);
}

static void metadata(void)
{
    cannot_connect("169.254.169.254", 80);
    cannot_connect("169.254.170.2", 80);
    cannot_connect("100.100.100.200", 80);
    cannot_connect("fd00:ec2::254", 80);
}

/* The checker listens on each of the host's addresses while this runs. */
static void host_services(void)
{
    size_t at = 0;
    const char *address;
    int port = (int)fact_number("port"), tried = 0;
    while ((address = next_fact("address", &at))) {
        char copy[128];
        snprintf(copy, sizeof copy, "%s", address);
        cannot_connect(copy, port);
        cannot_connect(copy, 22);
        tried++;
    }
    cannot_connect("172.17.0.1", 2375);
    cannot_connect("172.17.0.1", port ? port : 80);
    if (!tried || !port)
        untried("the host's addresses: they aren't known");
}

static void host_loopback(void)
{
    static const int PORTS[] = {22, 80, 2375, 2376, 5432, 8000};
    int port = (int)fact_number("port");
    if (!port)
        untried("the host's loopback: there is no listener");
    cannot_connect("127.0.0.1", port ? port : 80);
    cannot_connect("::1", port ? port : 80);
    for (size_t i = 0; i < sizeof PORTS / sizeof *PORTS; i++)
        cannot_connect("127.0.0.1", PORTS[i]);
}

static void abstract_sockets(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name = fact("abstract");
    static char text[65536];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!*name)
        untried("abstract sockets: there is no listener");
    memcpy(address.sun_path + 1, name, strlen(name));
    int result = connect(fd, (struct sockaddr *)&address,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)));
    REFUSED("connect to an abstract socket of the host", result, ECONNREFUSED);
    if (read_file("/proc/net/unix", text, sizeof text) > 0 && *name && strstr(text, name))
        escaped("/proc/net/unix shows sockets of the host");
    else
        held("/proc/net/unix: no socket of the host");
}

/* Asks by netlink to change the network: a dummy interface, an address, a route. */
static void ask_netlink(const char *what, int protocol, unsigned short type, size_t body)
{
    struct {
        struct nlmsghdr head;
        unsigned char body[64];
        int error;
    } message = {{0}, {0}, 0};
    char answer[4096];
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0) {
        REFUSED(what, fd, EAFNOSUPPORT, EPROTONOSUPPORT);
        return;
    }
    message.head.nlmsg_len = (unsigned)NLMSG_LENGTH(body);
    message.head.nlmsg_type = type;
    message.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    message.body[0] = AF_INET;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    ssize_t got = send(fd, &message, message.head.nlmsg_len, 0);
    if (got >= 0 && poll(&ready, 1, WAIT_MS) > 0)
        got = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
    int error = errno;
    if (got >= (ssize_t)sizeof(struct nlmsghdr) &&
        ((struct nlmsghdr *)answer)->nlmsg_type == NLMSG_ERROR)
        error = -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
    close(fd);
    errno = error;
    REFUSED(what, error == 0 ? 0 : -1, EOPNOTSUPP, ECONNREFUSED);
}

static void netlink(void)
{
    ask_netlink("netlink: new interface", NETLINK_ROUTE, RTM_NEWLINK, sizeof(struct ifinfomsg));
    ask_netlink("netlink: new address", NETLINK_ROUTE, RTM_NEWADDR, sizeof(struct ifaddrmsg));
    ask_netlink("netlink: new route", NETLINK_ROUTE, RTM_NEWROUTE, sizeof(struct rtmsg));
    ask_netlink("netlink: audit", NETLINK_AUDIT, 1000, 0);
    ask_netlink("netlink: events of processes", NETLINK_CONNECTOR, NLMSG_DONE, 20);
}

static void interface_up(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    REFUSED("set an interface's flags", ioctl(fd, SIOCSIFFLAGS, &request), EAFNOSUPPORT, ENOTTY);
    request.ifr_mtu = 1400;
    REFUSED("set an interface's size", ioctl(fd, SIOCSIFMTU, &request), ENOTTY);
}

const struct attack network[] = {
    {"interfaces", interfaces},
    {"public-tcp", public_tcp},
    {"public-udp", public_udp},
    {"dns", dns},
    {"cloud-metadata", metadata},
    {"host-services", host_services},
    {"host-loopback", host_loopback},
    {"abstract-sockets", abstract_sockets},
    {"netlink", netlink},
    {"configure-interfaces", interface_up},
    {NULL, NULL},
};

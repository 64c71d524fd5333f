// echo PORT [BATCH [OCTETS]]: a bare UDP echo on 127.0.0.1, the limit for any server on plain sockets.
//
// The QR bit is set, and the datagram goes back as long as it came, or OCTETS long, so that it can be compared with a
// server whose responses are longer than their queries. One thread, one recvmmsg and one sendmmsg per batch.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { MOST = 256, SLOT = 4096 };
static uint8_t slots[MOST][SLOT];
static struct sockaddr_in peers[MOST];
static struct mmsghdr headers[MOST];
static struct iovec vectors[MOST];

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: echo PORT [BATCH [OCTETS]]\n");
        return 2;
    }
    int batch = count > 2 ? atoi(arguments[2]) : 32;
    size_t octets = count > 3 ? (size_t)atoi(arguments[3]) : 0;
    if (batch < 1 || batch > MOST || octets > SLOT) return 2;
    int on = 1, buffer = 1 << 22, fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (void *)&address, sizeof address)) {
        perror("echo: bind");
        return 1;
    }
    for (int i = 0; i < batch; i++) {
        vectors[i].iov_base = slots[i];
        headers[i].msg_hdr.msg_iov = &vectors[i];
        headers[i].msg_hdr.msg_iovlen = 1;
        headers[i].msg_hdr.msg_name = &peers[i];
    }
    for (;;) {
        for (int i = 0; i < batch; i++) {
            headers[i].msg_hdr.msg_namelen = sizeof peers[i];
            vectors[i].iov_len = SLOT;
        }
        int received = recvmmsg(fd, headers, batch, MSG_WAITFORONE, NULL);
        if (received <= 0) continue;
        for (int i = 0; i < received; i++) {
            vectors[i].iov_len = octets ? octets : headers[i].msg_len;
            slots[i][2] |= 0x84;
        }
        sendmmsg(fd, headers, received, 0);
    }
}

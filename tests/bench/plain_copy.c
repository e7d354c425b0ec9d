/* The yardstick for rebuilds: a plain checksummed copy of files between two processes over loopback TCP, to the same disk.
 *
 *   plain_copy TO FROM...     prints a JSON line: bytes, seconds
 *
 * Reads and writes are O_DIRECT, of 1 MiB, one at a time on either side (what `dd | nc | dd` does, with a CRC32C per 1 MiB); the clock stops when fdatasync has returned. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"

#define PIECE_BYTES (1u << 20)

static void die(const char *what)
{
    fprintf(stderr, "plain_copy: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_all(int fd, const void *p, size_t n)
{
    for (const uint8_t *b = p; n > 0;) {
        ssize_t k = send(fd, b, n, MSG_NOSIGNAL);
        if (k <= 0)
            die("send");
        b += k;
        n -= (size_t)k;
    }
}

static bool receive_all(int fd, void *p, size_t n)
{
    for (uint8_t *b = p; n > 0;) {
        ssize_t k = recv(fd, b, n, MSG_WAITALL);
        if (k < 0)
            die("recv");
        if (k == 0)
            return false;
        b += k;
        n -= (size_t)k;
    }
    return true;
}

static uint8_t *new_piece(void)
{
    void *p;
    if (posix_memalign(&p, 4096, PIECE_BYTES))
        die("memory");
    return p;
}

/* The other process. */
static int receive(int fd, const char *to)
{
    uint8_t *piece = new_piece();
    uint32_t crc;
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (out < 0)
        die(to);
    for (off_t at = 0; receive_all(fd, &crc, sizeof crc); at += PIECE_BYTES) {
        if (!receive_all(fd, piece, PIECE_BYTES) || crc32c(piece, PIECE_BYTES) != crc) {
            fprintf(stderr, "plain_copy: a piece arrived damaged\n");
            return 1;
        }
        if (pwrite(out, piece, PIECE_BYTES, at) != PIECE_BYTES)
            die("write");
    }
    return fdatasync(out) < 0;
}

/* Whole pieces only: extent files are made of them. */
static uint64_t send_file(int fd, const char *from, uint8_t *piece)
{
    uint64_t bytes = 0;
    int in = open(from, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (in < 0)
        die(from);
    while (read(in, piece, PIECE_BYTES) == PIECE_BYTES) {
        uint32_t crc = crc32c(piece, PIECE_BYTES);
        send_all(fd, &crc, sizeof crc);
        send_all(fd, piece, PIECE_BYTES);
        bytes += PIECE_BYTES;
    }
    close(in);
    return bytes;
}

static int loopback_pair(int ret[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l < 0 || bind(l, (struct sockaddr *)&at, sizeof at) < 0 || listen(l, 1) < 0 || getsockname(l, (struct sockaddr *)&at, &len) < 0)
        return -1;
    ret[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (ret[0] < 0 || connect(ret[0], (struct sockaddr *)&at, sizeof at) < 0)
        return -1;
    ret[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
    close(l);
    return ret[1] < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    int fd[2], status;
    struct timespec begin, end;
    if (argc < 3) {
        fprintf(stderr, "say: plain_copy TO FROM...\n");
        return 1;
    }
    if (loopback_pair(fd) < 0)
        die("loopback");
    clock_gettime(CLOCK_MONOTONIC, &begin);
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        close(fd[0]);
        _exit(receive(fd[1], argv[1]));
    }
    close(fd[1]);
    uint8_t *piece = new_piece();
    uint64_t bytes = 0;
    for (int i = 2; i < argc; i++)
        bytes += send_file(fd[0], argv[i], piece);
    close(fd[0]);
    if (waitpid(child, &status, 0) < 0 || status != 0)
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("{\"bytes\": %llu, \"seconds\": %.3f}\n", (unsigned long long)bytes,
           (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
    free(piece);
    return 0;
}

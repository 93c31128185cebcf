/*
 * BLAKE2b as RFC 7693 has it, with 32 bytes and without a key.
 */
#ifndef BLAKE2B_H
#define BLAKE2B_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLAKE2B_BYTES 32
#define BLAKE2B_BLOCK 128

struct blake2b {
    uint64_t state[8], length;
    unsigned char block[BLAKE2B_BLOCK];
    size_t filled;
};

static const uint64_t BLAKE2B_IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

static const unsigned char BLAKE2B_SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

static inline uint64_t blake2b_turn(uint64_t value, int by)
{
    return value >> by | value << (64 - by);
}

static inline void blake2b_mix(uint64_t v[16], int a, int b, int c, int d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = blake2b_turn(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = blake2b_turn(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = blake2b_turn(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = blake2b_turn(v[b] ^ v[c], 63);
}

static inline uint64_t blake2b_word(const unsigned char *at)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | at[i];
    return word;
}

static void blake2b_compress(struct blake2b *hash, int last)
{
    uint64_t v[16], m[16];
    for (int i = 0; i < 8; i++) {
        v[i] = hash->state[i];
        v[i + 8] = BLAKE2B_IV[i];
    }
    v[12] ^= hash->length;
    if (last)
        v[14] = ~v[14];
    for (int i = 0; i < 16; i++)
        m[i] = blake2b_word(hash->block + 8 * i);
    for (int round = 0; round < 12; round++) {
        const unsigned char *s = BLAKE2B_SIGMA[round % 10];
        for (int i = 0; i < 4; i++)
            blake2b_mix(v, i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
        for (int i = 0; i < 4; i++)
            blake2b_mix(v, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12, m[s[2 * i + 8]],
                        m[s[2 * i + 9]]);
    }
    for (int i = 0; i < 8; i++)
        hash->state[i] ^= v[i] ^ v[i + 8];
}

static void blake2b_begin(struct blake2b *hash)
{
    memset(hash, 0, sizeof *hash);
    memcpy(hash->state, BLAKE2B_IV, sizeof hash->state);
    hash->state[0] ^= 0x01010000 ^ BLAKE2B_BYTES;
}

/* A full block waits until more comes, because the last one is compressed in another way. */
static void blake2b_add(struct blake2b *hash, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    while (length > 0) {
        if (hash->filled == BLAKE2B_BLOCK) {
            hash->length += BLAKE2B_BLOCK;
            blake2b_compress(hash, 0);
            hash->filled = 0;
        }
        size_t room = BLAKE2B_BLOCK - hash->filled, piece = length < room ? length : room;
        memcpy(hash->block + hash->filled, at, piece);
        hash->filled += piece;
        at += piece;
        length -= piece;
    }
}

static void blake2b_end(struct blake2b *hash, unsigned char digest[BLAKE2B_BYTES])
{
    hash->length += hash->filled;
    memset(hash->block + hash->filled, 0, BLAKE2B_BLOCK - hash->filled);
    blake2b_compress(hash, 1);
    for (int i = 0; i < BLAKE2B_BYTES; i++)
        digest[i] = (unsigned char)(hash->state[i / 8] >> 8 * (i % 8));
}

#endif

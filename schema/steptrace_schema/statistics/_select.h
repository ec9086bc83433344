/* The k-th smallest elements of a row, for a few k, without sorting all of it.

   Elements are counted by their first bits, and only those that share them with one that is wanted
   are looked at again, by the bits that follow: a radix sort that leaves out all other parts. */

#include <stdint.h>

enum {
    MOST_RANKS = 64,
    FEW = 24,        /* elements that are sorted by insertion */
    MANY = 4096,     /* elements of which more bits are counted by at once */
    FIRST_BITS = 12, /* of many elements: the sign, the exponent and a little of float32 */
    BITS = 8,
};

/* Of each value of the bits that are counted by: how many keys have it, and which part they are of,
   0 for the rest, 1 and more for those that are looked at again. */
typedef struct {
    uint32_t sizes[1 << FIRST_BITS];
    uint8_t parts[1 << FIRST_BITS];
} Counts;

/* Unsigned integers in the order of the elements: NaN is the last, and both zeros are one. */
#define DEFINE_ORDER(element, Key, key_of, element_of)                                             \
    static inline Key key_of(element value)                                                        \
    {                                                                                              \
        const Key sign = (Key)1 << (8 * sizeof(Key) - 1);                                          \
        Key key;                                                                                   \
        value += 0;                                                                                \
        memcpy(&key, &value, sizeof key);                                                          \
        key ^= key & sign ? ~(Key)0 : sign;                                                        \
        return value == value ? key : ~(Key)0;                                                     \
    }                                                                                              \
    static inline element element_of(Key key)                                                      \
    {                                                                                              \
        const Key sign = (Key)1 << (8 * sizeof(Key) - 1);                                          \
        element value;                                                                             \
        key ^= key & sign ? sign : ~(Key)0;                                                        \
        memcpy(&value, &key, sizeof value);                                                        \
        return value;                                                                              \
    }

/* Put the keys of `ranks`, which ascend and count from `base`, into `out`. The keys are alike in
   all bits but the last `unknown` ones; they and `spare`, of the same length, are used up. `counts`
   is memory for a while: one for all, not on the stack, which is small in some threads. */
#define DEFINE_SELECT(Key, select)                                                                 \
    static void select(Key *keys, Key *spare, Py_ssize_t n, int unknown, const Py_ssize_t *ranks,  \
                       Py_ssize_t base, int count, Key *out, Counts *counts)                       \
    {                                                                                              \
        Py_ssize_t same = 1;                                                                       \
        while (same < n && keys[same] == keys[0])                                                  \
            same++;                                                                                \
        if (same < n && n <= FEW)                                                                  \
            for (Py_ssize_t i = same; i < n; i++) {                                                \
                Key key = keys[i];                                                                 \
                Py_ssize_t k = i;                                                                  \
                for (; k > 0 && keys[k - 1] > key; k--)                                            \
                    keys[k] = keys[k - 1];                                                         \
                keys[k] = key;                                                                     \
            }                                                                                      \
        if (same == n || n <= FEW) {                                                               \
            for (int i = 0; i < count; i++)                                                        \
                out[i] = keys[ranks[i] - base];                                                    \
            return;                                                                                \
        }                                                                                          \
        int bits = n >= MANY ? FIRST_BITS : BITS;                                                  \
        if (bits > unknown)                                                                        \
            bits = unknown;                                                                        \
        const int shift = unknown - bits;                                                          \
        const Key mask = ((Key)1 << bits) - 1;                                                     \
        uint32_t *sizes = counts->sizes;                                                           \
        uint8_t *parts = counts->parts;                                                            \
        memset(sizes, 0, sizeof *sizes << bits);                                                   \
        memset(parts, 0, sizeof *parts << bits);                                                   \
        for (Py_ssize_t i = 0; i < n; i++)                                                         \
            sizes[keys[i] >> shift & mask]++;                                                      \
        /* Of each part: where it begins, its first rank, and where its next key goes. */          \
        Py_ssize_t begins[MOST_RANKS + 2], bases[MOST_RANKS + 2], next[MOST_RANKS + 2];            \
        int firsts[MOST_RANKS + 2];                                                                \
        int part = 0;                                                                              \
        Py_ssize_t before = base, begin = 0;                                                       \
        for (int digit = 0, i = 0; i < count; digit++) {                                           \
            Py_ssize_t after = before + sizes[digit];                                              \
            if (ranks[i] < after) {                                                                \
                parts[digit] = (uint8_t)++part;                                                    \
                begins[part] = next[part] = begin;                                                 \
                bases[part] = before;                                                              \
                firsts[part] = i;                                                                  \
                begin += sizes[digit];                                                             \
                while (i < count && ranks[i] < after)                                              \
                    i++;                                                                           \
            }                                                                                      \
            before = after;                                                                        \
        }                                                                                          \
        begins[part + 1] = begin;                                                                  \
        firsts[part + 1] = count;                                                                  \
        /* First without a jump or a place to look up, as most are of no part. */                  \
        Py_ssize_t found = 0;                                                                      \
        for (Py_ssize_t i = 0; i < n; i++) {                                                       \
            spare[found] = keys[i];                                                                \
            found += parts[keys[i] >> shift & mask] != 0;                                          \
        }                                                                                          \
        for (Py_ssize_t i = 0; i < found; i++)                                                     \
            keys[next[parts[spare[i] >> shift & mask]]++] = spare[i];                              \
        for (int k = 1; k <= part; k++)                                                            \
            select(keys + begins[k], spare + begins[k], begins[k + 1] - begins[k], shift,          \
                   ranks + firsts[k], bases[k], firsts[k + 1] - firsts[k], out + firsts[k],        \
                   counts);                                                                        \
    }

#define DEFINE_ROW(element, Key, key_of, element_of, select, ordered)                              \
    DEFINE_ORDER(element, Key, key_of, element_of)                                                 \
    DEFINE_SELECT(Key, select)                                                                     \
    /* Put the elements of `ranks` among every `stride`-th of a row into `out`. */                 \
    static void ordered(const element *x, const element *minus, Py_ssize_t size,                   \
                        Py_ssize_t stride, const Py_ssize_t *ranks, int count, double *out,        \
                        Counts *counts)                                                            \
    {                                                                                              \
        Key *keys = (Key *)(counts + 1), found[MOST_RANKS]; /* what follows is room for them */    \
        for (Py_ssize_t i = 0; i < size; i++)                                                      \
            keys[i] = key_of(minus ? x[i * stride] - minus[i * stride] : x[i * stride]);           \
        select(keys, keys + size, size, 8 * (int)sizeof(Key), ranks, 0, count, found, counts);     \
        for (int i = 0; i < count; i++)                                                            \
            out[i] = (double)element_of(found[i]);                                                 \
    }

DEFINE_ROW(float, uint32_t, key_of_float, float_of_key, select_floats, ordered_floats)
DEFINE_ROW(double, uint64_t, key_of_double, double_of_key, select_doubles, ordered_doubles)

/* What lies between the convolutions of NCSNv2 and of the diffusion U-Nets, one image at a time while it is in the
   cache. See kernels.py.

   Arrays are float32, channels last: image, pixel, channel. `keep` is the gradient that reached an input by its other
   way, or null. Every image is treated alike, whatever the batch and the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-5f /* of both variances of NCSNv2's normalisation */
#define EACH_IMAGE _Pragma("omp parallel for num_threads(threads) schedule(static)") for (long i = 0; i < images; i++)
#define SIMD _Pragma("omp simd")
#define UNROLLED _Pragma("GCC unroll 5")
#define EACH_NUMBER                                                                                                     \
    for (long at = 0, end; at < count && (end = count - at < width ? count - at : width); at += width)                 \
        SIMD for (long k = 0; k < end; k++)
#define INLINE static inline __attribute__((always_inline)) void

/* exp(x) - less for x in [-87, 88], exact to two roundings also where that is near 0. */
static inline float exp_less(float x, float less) {
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* the nearest integer */
    float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r; /* exp(r) - 1 */
    union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
    return power.value * p + (power.value - less);
}

static inline float elu(float x) {
    float negative = exp_less(x < -87.0f ? -87.0f : (x < 0.0f ? x : 0.0f), 1.0f);
    return x < 0.0f ? negative : x;
}

static inline float sigmoid(float x) {
    float low = x < 0.0f ? x : -x, e = exp_less(low < -87.0f ? -87.0f : low, 0.0f);
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/* The derivative of elu, from its value. */
static inline float slope(float value) { return value < 0.0f ? value + 1.0f : 1.0f; }

void add_elu(float *sum, float *out, const float *h, const float *u, long count, long images, int threads) {
    EACH_IMAGE {
        const float *hi = h + i * count, *ui = u + i * count;
        float *si = sum + i * count, *oi = out + i * count;
        if (u) {
            SIMD for (long k = 0; k < count; k++) { float s = hi[k] + ui[k]; si[k] = s; oi[k] = elu(s); }
        } else {
            SIMD for (long k = 0; k < count; k++) oi[k] = elu(hi[k]);
        }
    }
}

void elu_back(float *dh, const float *g, const float *out, const float *keep, long count, long images, int threads) {
    EACH_IMAGE {
        const float *gi = g + i * count, *oi = out + i * count, *ki = keep + i * count;
        float *di = dh + i * count;
        if (keep) {
            SIMD for (long k = 0; k < count; k++) di[k] = gi[k] * slope(oi[k]) + ki[k];
        } else {
            SIMD for (long k = 0; k < count; k++) di[k] = gi[k] * slope(oi[k]);
        }
    }
}

/* Per-channel numbers are repeated to rows of at least 64, so that few channels make long loops too. */
static long row_of(long channels) { return channels * ((63 + channels) / channels); }

static void repeat(float *row, long width, long channels) {
    for (long k = channels; k < width; k++) row[k] = row[k - channels];
}

static void fold(float *row, long width, long channels) {
    for (long k = channels; k < width; k++) row[k % channels] += row[k];
}

/* statistics: mean, 1 / deviation and contrast of every channel, (images, 3, channels) */
void norm_elu(float *out, float *statistics, const float *h, const float *alpha, const float *gamma, const float *beta,
              long pixels, long channels, long images, int threads) {
    long width = row_of(channels), count = pixels * channels;
    EACH_IMAGE {
        const float *hi = h + i * count;
        float *oi = out + i * count, *mean = statistics + i * 3 * channels;
        float *inverse = mean + channels, *contrast = inverse + channels;
        float *a = calloc(3 * width, sizeof(float)), *b = a + width, *m = b + width;
        EACH_NUMBER a[k] += hi[at + k];
        fold(a, width, channels);
        for (long c = 0; c < channels; c++) m[c] = mean[c] = a[c] / pixels;
        repeat(m, width, channels);
        EACH_NUMBER { float d = hi[at + k] - m[k]; b[k] += d * d; }
        fold(b, width, channels);
        float centre = 0, spread = 0;
        for (long c = 0; c < channels; c++) centre += mean[c] / channels;
        for (long c = 0; c < channels; c++) spread += (mean[c] - centre) * (mean[c] - centre) / (channels - 1);
        for (long c = 0; c < channels; c++) {
            inverse[c] = 1 / sqrtf(b[c] / pixels + EPS);
            contrast[c] = (mean[c] - centre) / sqrtf(spread + EPS);
            a[c] = gamma[c] * inverse[c];
            b[c] = gamma[c] * alpha[c] * contrast[c] + beta[c];
        }
        repeat(a, width, channels);
        repeat(b, width, channels);
        EACH_NUMBER oi[at + k] = elu(a[k] * (hi[at + k] - m[k]) + b[k]);
        free(a);
    }
}

/* sums: of the gradient behind the normalisation, and of its product with h - mean, (images, 2, channels) */
void norm_elu_back(float *dh, float *sums, const float *g, const float *out, const float *h, const float *statistics,
                   const float *alpha, const float *gamma, const float *keep, long pixels, long channels, long images,
                   int threads) {
    long width = row_of(channels), count = pixels * channels;
    EACH_IMAGE {
        const float *hi = h + i * count, *gi = g + i * count, *oi = out + i * count, *ki = keep + i * count;
        const float *mean = statistics + i * 3 * channels, *inverse = mean + channels, *contrast = inverse + channels;
        float *di = dh + i * count, *first = sums + i * 2 * channels, *second = first + channels;
        float *a = calloc(5 * width, sizeof(float)), *b = a + width, *m = b + width, *scale = m + width;
        float *shift = scale + width;
        for (long c = 0; c < channels; c++) m[c] = mean[c];
        repeat(m, width, channels);
        EACH_NUMBER {
            float z = gi[at + k] * slope(oi[at + k]);
            di[at + k] = z;
            a[k] += z;
            b[k] += z * (hi[at + k] - m[k]);
        }
        fold(a, width, channels);
        fold(b, width, channels);
        float centre = 0, spread = 0, pull = 0, through = 0;
        for (long c = 0; c < channels; c++) centre += mean[c] / channels;
        for (long c = 0; c < channels; c++) spread += (mean[c] - centre) * (mean[c] - centre) / (channels - 1);
        float root = 1 / sqrtf(spread + EPS);
        for (long c = 0; c < channels; c++) {
            float k = gamma[c] * alpha[c] * a[c]; /* derivative by the contrast */
            pull += k / channels;
            through += k * contrast[c];
        }
        for (long c = 0; c < channels; c++) {
            float k = gamma[c] * alpha[c] * a[c], i1 = inverse[c];
            float by_mean = root * (k - pull - through * contrast[c] / (channels - 1)) - gamma[c] * i1 * a[c];
            first[c] = a[c];
            second[c] = b[c];
            scale[c] = gamma[c] * i1;
            b[c] = -gamma[c] * i1 * i1 * i1 * b[c] / pixels;
            shift[c] = by_mean / pixels;
        }
        repeat(scale, width, channels);
        repeat(shift, width, channels);
        repeat(b, width, channels);
        if (keep) {
            EACH_NUMBER di[at + k] = scale[k] * di[at + k] + shift[k] + b[k] * (hi[at + k] - m[k]) + ki[at + k];
        } else {
            EACH_NUMBER di[at + k] = scale[k] * di[at + k] + shift[k] + b[k] * (hi[at + k] - m[k]);
        }
        free(a);
    }
}

/* Group normalisation of h + before, times 1 + scale plus shift, and SiLU; before, scale and shift, of every image and
   channel, may be null. statistics: centre, 1 / deviation, factor and summand of every channel, (images, 4, channels);
   what SiLU gets is factor * (h - centre) + summand */
void group_norm_silu(float *out, float *statistics, const float *h, const float *gamma, const float *beta,
                     const float *before, const float *scale, const float *shift, long pixels, long channels,
                     long groups, long images, float eps, int threads) {
    long width = row_of(channels), count = pixels * channels, members = channels / groups;
    EACH_IMAGE {
        const float *hi = h + i * count;
        float *oi = out + i * count, *centre = statistics + i * 4 * channels;
        float *inverse = centre + channels, *factor = inverse + channels, *summand = factor + channels;
        float *a = calloc(3 * width, sizeof(float)), *b = a + width, *m = b + width;
        EACH_NUMBER a[k] += hi[at + k];
        fold(a, width, channels);
        for (long c = 0; c < channels; c += members) {
            float mean = 0;
            for (long k = c; k < c + members; k++) mean += a[k] / pixels + (before ? before[i * channels + k] : 0);
            for (long k = c; k < c + members; k++)
                m[k] = centre[k] = mean / members - (before ? before[i * channels + k] : 0);
        }
        repeat(m, width, channels);
        EACH_NUMBER { float d = hi[at + k] - m[k]; b[k] += d * d; }
        fold(b, width, channels);
        for (long c = 0; c < channels; c += members) {
            float squares = 0;
            for (long k = c; k < c + members; k++) squares += b[k];
            for (long k = c; k < c + members; k++) {
                float times = 1 + (scale ? scale[i * channels + k] : 0);
                inverse[k] = 1 / sqrtf(squares / (pixels * members) + eps);
                a[k] = factor[k] = gamma[k] * inverse[k] * times;
                b[k] = summand[k] = beta[k] * times + (shift ? shift[i * channels + k] : 0);
            }
        }
        repeat(a, width, channels);
        repeat(b, width, channels);
        EACH_NUMBER { float y = a[k] * (hi[at + k] - m[k]) + b[k]; oi[at + k] = y * sigmoid(y); }
        free(a);
    }
}

void group_norm_silu_back(float *dh, const float *g, const float *h, const float *statistics, const float *keep,
                          long pixels, long channels, long groups, long images, int threads) {
    long width = row_of(channels), count = pixels * channels, members = channels / groups;
    EACH_IMAGE {
        const float *hi = h + i * count, *gi = g + i * count, *ki = keep + i * count;
        const float *inverse = statistics + (i * 4 + 1) * channels;
        float *di = dh + i * count;
        float *a = calloc(5 * width, sizeof(float)), *b = a + width, *m = b + width, *factor = m + width;
        float *summand = factor + width;
        for (long c = 0; c < channels; c++) {
            m[c] = inverse[c - channels];
            factor[c] = inverse[c + channels];
            summand[c] = inverse[c + 2 * channels];
        }
        repeat(m, width, channels);
        repeat(factor, width, channels);
        repeat(summand, width, channels);
        EACH_NUMBER {
            float d = hi[at + k] - m[k], y = factor[k] * d + summand[k], s = sigmoid(y);
            float z = factor[k] * gi[at + k] * (s + y * s * (1 - s));
            di[at + k] = z;
            a[k] += z;
            b[k] += z * d;
        }
        fold(a, width, channels);
        fold(b, width, channels);
        for (long c = 0; c < channels; c += members) {
            float first = 0, second = 0, i1 = inverse[c];
            for (long k = c; k < c + members; k++) { first += a[k]; second += b[k]; }
            for (long k = c; k < c + members; k++) {
                a[k] = first / (pixels * members);
                b[k] = i1 * i1 * second / (pixels * members);
            }
        }
        repeat(a, width, channels);
        repeat(b, width, channels);
        if (keep) {
            EACH_NUMBER di[at + k] = di[at + k] - a[k] - b[k] * (hi[at + k] - m[k]) + ki[at + k];
        } else {
            EACH_NUMBER di[at + k] = di[at + k] - a[k] - b[k] * (hi[at + k] - m[k]);
        }
        free(a);
    }
}

/* Largest of the neighbours from `low` to `high` at a distance of `block` numbers, and which of them it was: the first
   of equals, as in torch; NaN beats everything. */
INLINE largest(float *out, int32_t *which, const float *h, const float *unused, long block, long count, int low,
               int high) {
    (void)unused;
    SIMD for (long k = 0; k < count; k++) {
        float best = h[k + low * block];
        int chosen = low;
        UNROLLED for (int d = low + 1; d <= high; d++) {
            float other = h[k + d * block];
            int larger = other > best || other != other;
            best = larger ? other : best;
            chosen = larger ? d : chosen;
        }
        out[k] = best;
        which[k] = (int32_t)chosen;
    }
}

/* The gradients of those maxima, from `low` to `high`, that this number was: they look back from d by -d. */
INLINE to_largest(float *dh, int32_t *which, const float *g, const float *keep, long block, long count, int low,
                  int high) {
    SIMD for (long k = 0; k < count; k++) {
        float sum = keep ? keep[k] : 0.0f;
        UNROLLED for (int d = low; d <= high; d++) sum += which[k + d * block] == -d ? g[k + d * block] : 0.0f;
        dh[k] = sum;
    }
}

/* Run over `lines` x `length` x `block` numbers, in stretches that have the same neighbours along `length`. */
#define CASE(low, high) case 3 * -(low) + (high): RUN(low, high); break;
#define ALONG_AXIS(name)                                                                                 \
    static void name##_axis(float *to, int32_t *which, const float *from, const float *keep, long lines, long length,   \
                            long block) {                                                                              \
        for (long l = 0; l < lines; l++)                                                                               \
            for (long p = 0, steps = 1; p < length; p += steps) {                                                      \
                long at = (l * length + p) * block, low = p < 2 ? p : 2, left = length - 1 - p;                        \
                long high = left < 2 ? left : 2;                                                                       \
                steps = low + high == 4 ? left - 1 : 1;                                                                \
                switch (3 * low + high) {                                                                              \
                    CASE(0, 0) CASE(0, 1) CASE(0, 2) CASE(-1, 0) CASE(-1, 1) CASE(-1, 2) CASE(-2, 0) CASE(-2, 1)       \
                    CASE(-2, 2)                                                                                        \
                }                                                                                                      \
            }                                                                                                          \
    }

#define RUN(low, high) largest(to + at, which + at, from + at, keep, block, steps * block, low, high)
ALONG_AXIS(largest)
#undef RUN
#define RUN(low, high) \
    if (keep) to_largest(to + at, which + at, from + at, keep + at, block, steps * block, low, high); \
    else to_largest(to + at, which + at, from + at, NULL, block, steps * block, low, high)
ALONG_AXIS(to_largest)
#undef RUN

/* which: (2, images, height, width, channels), for the pass along rows and the pass along columns */
void pool(float *out, int32_t *which, const float *h, long height, long width, long channels, long images, int threads) {
    long count = height * width * channels;
    EACH_IMAGE {
        float *rows = malloc(count * sizeof(float));
        largest_axis(rows, which + i * count, h + i * count, NULL, height, width, channels);
        largest_axis(out + i * count, which + (images + i) * count, rows, NULL, 1, height, width * channels);
        free(rows);
    }
}

void pool_back(float *dh, const float *g, int32_t *which, const float *keep, long height, long width,
               long channels, long images, int threads) {
    long count = height * width * channels;
    EACH_IMAGE {
        float *rows = malloc(count * sizeof(float));
        to_largest_axis(rows, which + (images + i) * count, g + i * count, NULL, 1, height, width * channels);
        to_largest_axis(dh + i * count, which + i * count, rows, keep ? keep + i * count : NULL, height, width,
                        channels);
        free(rows);
    }
}

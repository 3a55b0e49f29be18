#if defined(__AVX2__)
/* Sums of 32 outputs: 16 neighbours in each of two places. */
struct tile {
    __m256i sums[4];
};

static inline struct tile start_tile(int32_t bias)
{
    struct tile tile;
    tile.sums[0] = tile.sums[1] = tile.sums[2] = tile.sums[3] = _mm256_set1_epi32(bias);
    return tile;
}

static inline __m256i widen(const int8_t *in)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)in));
}

/* Adds the products of two weights, one with the inputs from a on, one with those from b on, to 16 sums. */
static inline void add_to_half(__m256i *sums, const int8_t *a, const int8_t *b, __m256i weights)
{
    const __m256i x = widen(a), y = widen(b);
    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), weights));
    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), weights));
}

/* The same for the whole tile; the second place is `second` bytes further on, or not needed if that is 0. */
static inline void add_products(struct tile *tile, const int8_t *a, const int8_t *b, int second, __m256i weights)
{
    add_to_half(tile->sums, a, b, weights);
    if (second)
        add_to_half(tile->sums + 2, a + second, b + second, weights);
}

/* The weights of two taps, as pairs in all lanes. */
static inline __m256i pair(int8_t a, int8_t b)
{
    return _mm256_cvtepi8_epi16(_mm_set1_epi16((int16_t)((uint8_t)a | (uint16_t)((uint8_t)b << 8))));
}

static inline void store_half(int32_t *out, const __m256i *sums)
{
    _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(sums[0], sums[1], 0x20));
    _mm256_storeu_si256((__m256i *)(out + 8), _mm256_permute2x128_si256(sums[0], sums[1], 0x31));
}
{% if not is_wide %}

static inline __m256i load_eight(const int32_t *sums)
{
    return _mm256_loadu_si256((const __m256i *)sums);
}

static inline __m256i max_of_pairs(__m256i a, __m256i b)
{
    const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88));
    const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd));
    return _mm256_permute4x64_epi64(_mm256_max_epi32(even, odd), 0xd8);
}

/* As scale, the zero point and clip; the eight int8 are the lower ones of the result. */
static inline __m128i scale_eight(__m256i sums, int32_t multiplier, int shift, int32_t zero_point, int32_t lowest)
{
    const __m256i factor = _mm256_set1_epi32(multiplier), half = _mm256_set1_epi64x((int64_t)1 << 30);
    const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(sums, factor), half);
    const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(sums, 32), factor), half);
    const __m256i product = _mm256_blend_epi32(_mm256_srli_epi64(even, 31), _mm256_slli_epi64(odd, 1), 0xaa);
    const __m256i rounding = _mm256_add_epi32(_mm256_set1_epi32((int32_t)1 << (shift - 1)), _mm256_srai_epi32(product, 31));
    const __m256i shifted = _mm256_sra_epi32(_mm256_add_epi32(product, rounding), _mm_cvtsi32_si128(shift));
    const __m256i values = _mm256_add_epi32(shifted, _mm256_set1_epi32(zero_point));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    return _mm_max_epi8(_mm_packs_epi16(words, words), _mm_set1_epi8((char)lowest));
}

/* Where the eight outputs from x on start, so that none lies beyond the line: they may overlap those before them. */
static inline int get_start(int x, int width)
{
    return x + 8 <= width || width < 8 ? x : width - 8;
}

static inline void store_eight(int8_t *out, int width, __m128i eight)
{
    int8_t bytes[16];
    if (width >= 8) {
        _mm_storel_epi64((__m128i *)out, eight);
        return;
    }
    _mm_storeu_si128((__m128i *)bytes, eight);
    for (int x = 0; x < width; x++)
        out[x] = bytes[x];
}
{% endif %}
#endif

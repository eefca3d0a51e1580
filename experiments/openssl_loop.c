/* Digests of the chunks of a buffer by OpenSSL's library, without Python between the chunks. The functions are declared
 * here, so that OpenSSL's headers need not be installed. */

#include <stddef.h>

typedef struct context EVP_MD_CTX;
typedef struct digest EVP_MD;
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *);
EVP_MD *EVP_MD_fetch(void *, const char *name, const char *);
void EVP_MD_free(EVP_MD *);
int EVP_DigestInit_ex(EVP_MD_CTX *, const EVP_MD *, void *);
int EVP_DigestUpdate(EVP_MD_CTX *, const void *, size_t);
int EVP_DigestFinal_ex(EVP_MD_CTX *, unsigned char *, unsigned *);
const char *OpenSSL_version(int);

const char *library_version(void) { return OpenSSL_version(0); }

/* Hashes `chunks` chunks of `chunk_size` bytes, and writes their digests one after another. Returns whether it could. */
int hash_chunks(const char *algorithm, const unsigned char *data, size_t chunks, size_t chunk_size,
                unsigned char *digests) {
    EVP_MD *digest = EVP_MD_fetch(NULL, algorithm, NULL);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int good = digest != NULL && context != NULL;
    for (size_t i = 0; good && i < chunks; ++i) {
        unsigned written = 0;
        good = EVP_DigestInit_ex(context, digest, NULL) && EVP_DigestUpdate(context, data + i * chunk_size, chunk_size) &&
               EVP_DigestFinal_ex(context, digests, &written);
        digests += written;
    }
    EVP_MD_CTX_free(context);
    EVP_MD_free(digest);
    return good;
}

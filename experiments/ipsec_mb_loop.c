/* Digests of the chunks of a buffer by Intel's Multi-Buffer Crypto for IPsec Library, which hashes several at once. */

#include <intel-ipsec-mb.h>
#include <stddef.h>
#include <string.h>

const char *library_version(void) { return imb_get_version_str(); }

/* Hashes `chunks` chunks of `chunk_size` bytes, and writes their digests one after another. Returns whether it could. */
int hash_chunks(const char *algorithm, const unsigned char *data, size_t chunks, size_t chunk_size,
                unsigned char *digests) {
    int is_sha256 = strcmp(algorithm, "sha256") == 0;
    size_t digest_size = is_sha256 ? 32 : 48;
    size_t done = 0;
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager == NULL) return 0;
    init_mb_mgr_auto(manager, NULL);
    for (size_t i = 0; i < chunks; ++i) {
        IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
        memset(job, 0, sizeof *job);
        job->cipher_mode = IMB_CIPHER_NULL;
        job->cipher_direction = IMB_DIR_ENCRYPT;
        job->chain_order = IMB_ORDER_HASH_CIPHER;
        job->hash_alg = is_sha256 ? IMB_AUTH_SHA_256 : IMB_AUTH_SHA_384;
        job->src = data + i * chunk_size;
        job->msg_len_to_hash_in_bytes = chunk_size;
        job->auth_tag_output = digests + i * digest_size;
        job->auth_tag_output_len_in_bytes = digest_size;
        job = IMB_SUBMIT_JOB(manager); /* one that has ended, if any has */
        done += job != NULL && job->status == IMB_STATUS_COMPLETED;
    }
    for (IMB_JOB *job; (job = IMB_FLUSH_JOB(manager)) != NULL;) done += job->status == IMB_STATUS_COMPLETED;
    free_mb_mgr(manager);
    return done == chunks;
}

"""From a corpus on disk to manifests, vocabulary and binary text; needs no fairseq."""

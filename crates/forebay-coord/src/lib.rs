//! The coordinator: the catalogue of namespaces, embedded in one file

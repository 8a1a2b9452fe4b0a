//! The certificates that this host trusts.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

/// Read once; none where there are none.
pub(crate) fn trusted() -> Option<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Some(Arc::clone(roots));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    // Certificates may be installed later.
    (!roots.is_empty()).then(|| Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

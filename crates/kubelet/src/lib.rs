//! orkd-kubelet

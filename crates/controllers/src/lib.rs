//! orkd-controllers

"""Ray, as a sweep needs it: a session, patches, and the callbacks of a Tuner."""

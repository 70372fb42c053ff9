# A base for machines that reach no registry of images: Debian packages, put together by mmdebstrap.
FROM scratch
ADD base.tar /

# A node for kind, made of what kind_image.py gathers. Units that a container has no use for are taken out.
FROM localhost/llmproxy-kind-base:1
COPY kind/usr/local/bin/ bin/ /usr/local/bin/
COPY kind/kind/ /kind/
COPY kind/etc/ /etc/
COPY images/ /kind/images/
COPY own/version /kind/version
COPY own/containerd.toml /etc/containerd/config.toml
COPY own/10-pods.conflist /etc/cni/net.d/
COPY own/load-images.service /etc/systemd/system/
RUN cd /usr/bin && ln -sf ../local/bin/kubelet ../local/bin/kubeadm ../local/bin/kubectl . \
 && rm -f /etc/systemd/system/*.wants/* /lib/systemd/system/multi-user.target.wants/* \
    /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/basic.target.wants/* \
    /lib/systemd/system/sockets.target.wants/*udev* /lib/systemd/system/sockets.target.wants/*initctl* \
    /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
 && find /etc/systemd /etc/sysctl.d /etc/default /etc/containerd -type f -exec chmod 644 {} + \
 && echo ReadKMsg=no >> /etc/systemd/journald.conf \
 && ln -sf /lib/systemd/systemd /sbin/init \
 && mkdir -p /etc/kubernetes/manifests \
 && systemctl enable containerd kubelet load-images undo-mount-hacks \
 && systemctl mask systemd-binfmt
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]

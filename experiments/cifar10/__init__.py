"""The paper's claims on CIFAR-10, with small networks: data, configs, recorded results."""

"""A step of training as one CUDA graph: --cuda-graph.

PyTorch's way to capture a whole step, https://pytorch.org/docs/stable/notes/cuda.html
("Whole-network capture"). The host then copies a batch and launches the graph; without
it, it handles each parameter several times a step: where its gradient is accumulated,
averaged over processes, clipped and used.
"""

import contextlib

import torch
from mmaction.structures import ActionDataSample
from torch import distributed

from . import HostError

HEADS = ['V1Head', 'V1Head3D']
NONE = [None]
WARMUP = 3  # steps before the capture: they make momenta, choose algorithms and compile


def check_graph(cfg):
    """A native config trains in a way that a graph can have.

    Args:
        cfg (mmengine.Config): whose train_cfg.cuda_graph is set.

    Raises:
        HostError: it does not; the text names the key, and what would be right.
    """
    if not torch.cuda.is_available():
        raise HostError('cuda_graph=True needs CUDA')
    optimizer, head = cfg.optim_wrapper.optimizer, cfg.model.cls_head
    preprocessor = cfg.model.get('data_preprocessor') or {}
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    wrapper = cfg.get('model_wrapper_cfg') or {}
    wrong = [
        ('native.optim_wrapper.type', cfg.optim_wrapper.type, ['V1OptimWrapper']),
        ('optimizer.type', optimizer.type, ['SGD']),
        ('optimizer.fused', optimizer.get('fused'), [True]),
        ('native.model.cls_head.type', head.type, HEADS),
        ('native.model.cls_head.label_smooth_eps', head.get('label_smooth_eps'), NONE),
        ('native.model.data_preprocessor.blending', preprocessor.get('blending'), NONE),
        ('find_unused_parameters', wrapper.get('find_unused_parameters'), NONE),
        ('native.sync_bn', cfg.get('sync_bn'), NONE),
        *(
            ('native.param_scheduler', scheduler.type, NONE)
            for scheduler in schedulers
            if str(scheduler.type).endswith('Momentum')
        ),
    ]
    for key, value, right in wrong:
        if (value or None) not in right:
            good = ' or '.join(map(repr, right))
            raise HostError(
                f'cuda_graph=True cannot be used with {key}={value!r}; it can with '
                f"{good}. compile='reduce-overhead' makes graphs of the backbone alone"
            )


class GraphedStep:
    """Takes steps of training by replaying a CUDA graph of one.

    The first steps, and those of batches of another size, are taken without it.

    Args:
        model (mmengine.model.BaseModel): on a GPU, and not wrapped for several
            processes: the gradients are averaged here.
        wrapper (V1OptimWrapper): of a fused SGD.
    """

    def __init__(self, model, wrapper):
        self.model, self.wrapper = model, wrapper
        self.groups = wrapper.optimizer.param_groups
        device = next(model.parameters()).device
        self.rates = [torch.zeros((), device=device) for _ in self.groups]
        self.stream = torch.cuda.Stream(device)
        self.graph, self.outputs, self.taken = None, None, 0
        self.inputs = self.labels = None  # what the graph reads

    def __call__(self, batch):
        """Take a step.

        Args:
            batch (dict): of the data loader.

        Returns:
            dict: what BaseModel.train_step returns: losses and accuracies, scalar
            tensors on the device. The next step overwrites them.
        """
        data = self.model.data_preprocessor(batch, True)
        inputs = data['inputs']
        labels = torch.stack([sample.gt_labels.item for sample in data['data_samples']])
        if labels.shape[1:] != (1,):
            raise HostError(
                f'cuda_graph=True needs one label a clip, and a clip has '
                f'{labels.shape[1]} values'
            )
        if self.inputs is None:
            self.inputs = torch.empty_like(inputs)
            self.labels = torch.empty_like(labels, device=inputs.device)
        for rate, group in zip(self.rates, self.groups):
            rate.fill_(group['lr'])
        if inputs.shape != self.inputs.shape:
            return self.take(inputs, labels.to(inputs.device, non_blocking=True))
        self.inputs.copy_(inputs)
        self.labels.copy_(labels, non_blocking=True)
        self.taken += 1
        if self.taken <= WARMUP:
            return self.take(self.inputs, self.labels)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            # Threads of the data loader and of NCCL go on with what a capture forbids.
            with torch.cuda.graph(
                self.graph, stream=self.stream, capture_error_mode='thread_local'
            ):
                self.outputs = self.compute(self.inputs, self.labels)
        self.graph.replay()
        return self.outputs

    def take(self, inputs, labels):
        """A step without a graph, on the stream that it is captured on: gradients are
        accumulated on the stream on which they were first."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = self.compute(inputs, labels)
        current.wait_stream(self.stream)
        return outputs

    def compute(self, inputs, labels):
        """The work of a step: inputs (clips, images, 3, H, W) or (clips, crops, 3, T,
        H, W), labels (clips, 1)."""
        samples = [ActionDataSample().set_gt_labels(label) for label in labels]
        losses = self.model(inputs, samples, mode='loss')
        loss, outputs = self.model.parse_losses(losses)
        self.wrapper.backward(loss)
        if distributed.is_initialized():
            average_gradients(self.model.parameters())
        with self.rates_on_device():
            self.wrapper.step()
        self.wrapper.zero_grad()
        return {name: value.detach() for name, value in outputs.items()}

    @contextlib.contextmanager
    def rates_on_device(self):
        """The optimizer reads the rates from tensors, since a graph keeps numbers."""
        numbers = [group['lr'] for group in self.groups]
        for group, rate in zip(self.groups, self.rates):
            group['lr'] = rate
        try:
            yield
        finally:
            for group, number in zip(self.groups, numbers):
                group['lr'] = number


def average_gradients(parameters):
    """Average gradients over processes, in one message.

    Args:
        parameters (iterable[nn.Parameter]): those of the same order have gradients in
            all processes.
    """
    parameters = [p for p in parameters if p.grad is not None]
    flat = parameters[0].new_empty(sum(p.numel() for p in parameters))
    # In each weight's own memory format, as the optimizer wants its gradient.
    averages = [
        part.as_strided(p.shape, p.stride())
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]))
    ]
    # A few launches; torch.cat takes 0.4 ms for the 257 gradients of a ResNet-50.
    torch._foreach_copy_(averages, [p.grad for p in parameters])
    distributed.all_reduce(flat, distributed.ReduceOp.AVG)
    for parameter, average in zip(parameters, averages):
        parameter.grad = average


def share_weights(model):
    """Give all processes the weights and buffers of the first."""
    for value in model.state_dict().values():
        distributed.broadcast(value, 0)

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

WARMUP = 3  # steps before the capture: they make momenta, choose algorithms and compile


def check_graph(cfg):
    """What is known not to work in a graph, or to have no effect with one, is not set.

    Args:
        cfg (mmengine.Config): native, with train_cfg.cuda_graph.

    Raises:
        HostError: it is; the text names the key, and what would be right.
    """
    if not torch.cuda.is_available():
        raise HostError('cuda_graph=True needs CUDA')
    wrapper, optimizer = cfg.optim_wrapper, cfg.optim_wrapper.optimizer
    head, preprocessor = cfg.model.cls_head, cfg.model.get('data_preprocessor') or {}
    ddp = cfg.get('model_wrapper_cfg') or {}
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    not_of_rates = [
        scheduler.type
        for scheduler in schedulers
        if str(scheduler.type).endswith('Momentum')
        or scheduler.get('param_name', 'lr') != 'lr'
    ]
    # A key, its value, and what it can be; None is nothing, or False.
    for key, value, right in (
        ('optimizer.type', optimizer.type, ['SGD']),
        ('optimizer.fused', optimizer.get('fused'), [True]),
        ('optimizer.foreach', optimizer.get('foreach'), [None]),
        ('model.backbone.with_cp', cfg.model.backbone.get('with_cp'), [None]),
        ('dist_params.backend', cfg.env_cfg.dist_cfg.get('backend'), ['nccl']),
        ('native.optim_wrapper.type', wrapper.type, ['V1OptimWrapper']),
        (
            'native.optim_wrapper.accumulative_counts',
            wrapper.get('accumulative_counts', 1),
            [1],
        ),
        ('native.optim_wrapper.keep_gradients', wrapper.get('keep_gradients'), [None]),
        ('native.param_scheduler', ', '.join(map(str, not_of_rates)), [None]),
        ('native.model.cls_head.type', head.type, ['V1Head', 'V1Head3D']),
        (
            'native.model.cls_head.label_smooth_eps',
            head.get('label_smooth_eps'),
            [None],
        ),
        (
            'native.model.data_preprocessor.blending',
            preprocessor.get('blending'),
            [None],
        ),
        (
            'native.model_wrapper_cfg.type',
            ddp.get('type'),
            ['MMDistributedDataParallel'],
        ),
        (
            'native.model_wrapper_cfg.broadcast_buffers',
            ddp.get('broadcast_buffers'),
            [None],
        ),
        ('native.sync_bn', cfg.get('sync_bn'), [None]),
        (
            'native.activation_checkpointing',
            cfg.get('activation_checkpointing'),
            [None],
        ),
    ):
        if (value or None) not in right:
            mend = 'leave it out'
            if right[0] is not None:
                mend = f'it can be {" or ".join(map(repr, right))}'
            raise HostError(
                f'cuda_graph=True cannot be used with {key}={value!r}: {mend}, or use '
                f"compile='reduce-overhead' in its place"
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
        self.device = next(model.parameters()).device
        self.all_rates = torch.zeros(len(self.groups), device=self.device)
        self.rates = self.all_rates.unbind()  # which the optimizer reads
        self.stream = torch.cuda.Stream(self.device)
        self.graph, self.taken = None, 0
        self.inputs = self.labels = None  # what the graph reads
        self.outputs = self.norm = self.captured = None  # of the graph

    def refresh(self):
        """Leave the graph, if it has a step of other settings than those of now."""
        if self.graph and self.captured != self.settings():
            self.graph, self.taken = None, 0

    def settings(self):
        """What is fixed in a graph: of the optimizer, the parameters and the layers."""
        fixed = [
            {name: group[name] for name in group if name not in ('params', 'lr')}
            for group in self.groups
        ]
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        return fixed, trained, [module.training for module in self.model.modules()]

    def __call__(self, batch):
        """Take a step.

        Args:
            batch (dict): of the data loader, for the model's data_preprocessor: inputs,
                (clips, images, 3, H, W) or (clips, crops, 3, T, H, W), and labels.

        Returns:
            dict: what BaseModel.train_step returns: losses and accuracies, scalar
            tensors on the device.

        Raises:
            HostError: clips have more than one label, or a part of the step cannot be
                captured.
        """
        data = self.model.data_preprocessor(batch, True)
        inputs = data['inputs']
        labels = torch.stack([sample.gt_labels.item for sample in data['data_samples']])
        if labels.shape[1:] != (1,):
            raise HostError(
                f'cuda_graph=True needs one label a clip, and a clip has '
                f'{labels.shape[1]} values'
            )
        rates = torch.tensor([group['lr'] for group in self.groups])
        self.all_rates.copy_(rates, non_blocking=True)
        if self.inputs is None:
            self.inputs = torch.empty_like(inputs)
            self.labels = torch.empty_like(labels, device=inputs.device)
        if inputs.shape != self.inputs.shape:
            return self.take(inputs, labels.to(inputs.device, non_blocking=True))
        self.inputs.copy_(inputs)
        self.labels.copy_(labels, non_blocking=True)
        self.taken += 1
        if self.taken <= WARMUP:
            return self.take(self.inputs, self.labels)
        if self.graph is None:
            self.capture()
        self.graph.replay()
        self.wrapper.norm = self.norm
        return {name: value.clone() for name, value in self.outputs.items()}

    def capture(self):
        """Make the graph of a step with self.inputs and self.labels."""
        self.captured, graph = self.settings(), torch.cuda.CUDAGraph()
        try:
            # Threads of the data loader and of NCCL go on with what a capture forbids.
            with torch.cuda.graph(
                graph, stream=self.stream, capture_error_mode='thread_local'
            ):
                self.outputs = self.compute(self.inputs, self.labels)
        except RuntimeError as error:
            reason = str(error.__context__ or error).partition('\n')[0]
            raise HostError(
                f'cuda_graph=True: a part of the step cannot be in a CUDA graph '
                f'({reason}); leave cuda_graph out'
            ) from error
        self.graph, self.norm = graph, self.wrapper.norm

    def take(self, inputs, labels):
        """A step without a graph, see :meth:`compute`.

        It is on the stream of the capture: a gradient is accumulated on the stream on
        which it was first.
        """
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = self.compute(inputs, labels)
        current.wait_stream(self.stream)
        return outputs

    def compute(self, inputs, labels):
        """The work of a step.

        Args:
            inputs (Tensor): (clips, images, 3, H, W) or (clips, crops, 3, T, H, W),
                normalized.
            labels (Tensor): (clips, 1) int64, on the device.

        Returns:
            dict: losses and accuracies, scalar tensors.
        """
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
        parameters (iterable[nn.Parameter]): of one dtype. The same ones, and at least
            one, have gradients in all processes. The averages take their places.
    """
    parameters = [p for p in parameters if p.grad is not None]
    flat = parameters[0].new_empty(sum(p.numel() for p in parameters))
    # In each weight's own memory format, as the optimizer wants its gradient.
    averages = [
        part.as_strided(p.shape, p.stride())
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]))
    ]
    # A few launches; torch.cat is slower for hundreds of small tensors.
    torch._foreach_copy_(averages, [p.grad for p in parameters])
    distributed.all_reduce(flat, distributed.ReduceOp.AVG)
    for parameter, average in zip(parameters, averages):
        parameter.grad = average

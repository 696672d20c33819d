"""Fields of TrainingArguments: carried, independent of the batch size, or named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from legw.adapters.forms import CARRIED, COUNTS, KEPT, Named, Setting, all_of

SETTINGS: dict[str, Setting] = {
    **all_of(
        "per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs "
        "max_steps warmup_steps warmup_ratio lr_scheduler_type lr_scheduler_kwargs optim "
        "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm accelerator_config "
        "world_size",
        CARRIED,
    ),
    **all_of("eval_steps save_steps logging_steps torch_empty_cache_steps", COUNTS),
    "eval_delay": Named("counts updates or epochs, as eval_strategy does, and stays"),
    "optim_args": Named("changes settings of the optimizer, and stays"),
    "auto_find_batch_size": Named("may halve the batch while it runs; switch it off"),
    "parallelism_config": Named(
        "may let several devices share one batch; processes are those with one of their own"
    ),
    "deepspeed": Named("may have a batch, an optimizer and a scheduler of its own; they stay"),
    "resume_from_checkpoint": Named("goes on with a run, whose batch and place it has"),
    "train_batch_size": Named("follows from per_device_train_batch_size, and stays"),
    **all_of(
        "output_dir do_train do_eval do_predict average_tokens_across_devices "
        "label_smoothing_factor bf16 fp16 bf16_full_eval fp16_full_eval tf32 "
        "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing "
        "gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode "
        "use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha optim_target_modules "
        "logging_strategy logging_first_step log_on_each_node logging_nan_inf_filter "
        "include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name "
        "project trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy "
        "per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches "
        "eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics "
        "save_only_model save_strategy save_on_each_node save_total_limit enable_jit_checkpoint "
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push "
        "hub_revision load_best_model_at_end metric_for_best_model greater_is_better "
        "ignore_data_skip restore_callback_states_from_checkpoint full_determinism seed data_seed "
        "use_cpu dataloader_drop_last dataloader_num_workers dataloader_pin_memory "
        "dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names "
        "train_sampling_strategy length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config debug "
        "skip_memory_metrics local_rank",
        KEPT,
    ),
}
"""By name, as of Transformers 5.24; a test compares them with the installed version's."""

ONLY_BEFORE_5: dict[str, Setting] = {
    "split_batches": CARRIED,
    "adafactor": Named("takes another optimizer than optim says, and stays"),
    "per_gpu_train_batch_size": Named("is an old name of the batch on a device, and stays"),
    **all_of(
        "overwrite_output_dir evaluation_strategy group_by_length logging_dir no_cuda "
        "use_mps_device jit_mode_eval use_ipex half_precision_backend fp16_opt_level fp16_backend "
        "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap push_to_hub_model_id "
        "push_to_hub_organization push_to_hub_token mp_parameters past_index ray_scope torchdynamo "
        "tpu_num_cores tpu_metrics_debug save_safetensors include_inputs_for_metrics "
        "include_tokens_per_second dispatch_batches per_gpu_eval_batch_size _n_gpu "
        "optim_target_modules_kwargs",
        KEPT,
    ),
}
"""Names of Transformers 4 that 5 does not have, beside `warmup_ratio`."""


def gone(values: Mapping[str, Any]) -> list[str]:
    """Return the names among values that Transformers 5 does not have any more.

    >>> gone({"logging_dir": "runs", "seed": 1})
    ['logging_dir']
    """
    return [name for name in ONLY_BEFORE_5 if name in values]
